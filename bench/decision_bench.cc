// What a decision costs: on paths never seen before, and on a known node.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <random>

#include "policy/base_rules.h"
#include "policy/snapshot.h"

namespace {

using namespace fbroker;
using namespace fbroker::policy;

// A mix as people write it: paths, extensions, names anywhere, exceptions.
Rule rule(std::size_t i) {
  Rule rule;
  const std::string n = std::to_string(i);
  rule.id = "policy:/rules/" + n;
  rule.effect = i % 3 == 0 ? Effect::deny : i % 3 == 1 ? Effect::allow : Effect::ask;
  rule.operations = OperationSet{Operation::write, Operation::create};
  switch (i % 6) {
    case 0: rule.paths = {"/src/module" + n + "/generated"}; break;
    case 1: rule.paths = {"**/*.ext" + n}; break;
    case 2: rule.paths = {"**/name" + n}; break;
    case 3: rule.paths = {"/pkg" + n + "/**/test"}; break;
    case 4: rule.paths = {"/src/*/dir" + n, "/lib/prefix" + n + "*"}; break;
    case 5:
      rule.paths = {"**/gen" + n + "-*"};
      rule.except = {"/docs/**"};
      break;
  }
  return rule;
}

std::shared_ptr<const Snapshot> snapshot(std::size_t rules) {
  SnapshotInput input;
  for (std::size_t i = 0; i < rules; ++i) input.rules.push_back(rule(i));
  Rule allow;
  allow.id = "all";
  allow.effect = Effect::allow;
  allow.operations = OperationSet::all();
  allow.paths = {"/"};
  input.rules.push_back(allow);
  for (const BaseRule& base : base_rules()) input.rules.push_back(to_rule(base));
  auto made = Snapshot::compile(std::move(input));
  if (!made) std::abort();
  return *made;
}

// Six components, many of them such as the rules know: never the same twice.
std::vector<WorkspacePath> fresh_paths(std::size_t count) {
  std::mt19937 random(7);
  std::vector<WorkspacePath> paths;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string a = std::to_string(random() % 10000), b = std::to_string(random() % 10000);
    const std::string text = "/src/module" + a + "/component/dir" + b + "/deeper/file" +
                             std::to_string(i) + ".ext" + a;
    paths.push_back(*WorkspacePath::parse(text));
  }
  return paths;
}

void fresh(benchmark::State& state) {
  const auto policy = snapshot(static_cast<std::size_t>(state.range(0)));
  const auto paths = fresh_paths(1 << 16);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(policy->decide(paths[i]));
    i = (i + 1) % paths.size();
  }
}
BENCHMARK(fresh)->Arg(10)->Arg(1000)->Arg(10000)->Repetitions(3)->ReportAggregatesOnly(false);

void cached_node(benchmark::State& state) {
  const auto policy = snapshot(1000);
  const auto path = *WorkspacePath::parse("/src/module1/component/file.c");
  CachedDecision cached;
  for (auto _ : state) benchmark::DoNotOptimize(cached.get(*policy, path, {}));
}
BENCHMARK(cached_node);

// ATTACK: 2,047 components, each a name that rules look for.
void deepest(benchmark::State& state) {
  const auto policy = snapshot(static_cast<std::size_t>(state.range(0)));
  std::string text;
  while (text.size() + 2 < kMaxPathBytes) text += "/a";
  const auto path = *WorkspacePath::parse(text);
  for (auto _ : state) benchmark::DoNotOptimize(policy->decide(path));
}
BENCHMARK(deepest)->Arg(10)->Arg(10000);

void compile(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(snapshot(static_cast<std::size_t>(state.range(0))));
}
BENCHMARK(compile)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
