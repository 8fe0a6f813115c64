// What append() costs the operation that it records.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "broker/audit/audit_log.h"

namespace {

using namespace fbroker::audit;

std::unique_ptr<AuditLog> log_of_this_run;
std::string directory_of_this_run;

void set_up(const benchmark::State&) {
  char name[] = "/tmp/fbroker-bench-XXXXXX";
  directory_of_this_run = ::mkdtemp(name);
  AuditOptions options;
  options.directory = directory_of_this_run + "/audit";
  options.ring_bytes = 16u << 20;
  options.quota = {1e12, 1e12, 1e15, 1e15};
  log_of_this_run = *AuditLog::open(options);
}

void tear_down(const benchmark::State&) {
  log_of_this_run.reset();
  std::filesystem::remove_all(directory_of_this_run);
}

Record record(const char* decision) {
  Record r;
  r.session = "web-1";
  r.operation = "open";
  r.path = "/src/components/header/index.tsx";
  r.host_path = "/home/person/web/src/components/header/index.tsx";
  r.decision = decision;
  r.reason = "policy:2";
  r.pid = 4711;
  r.detail = "O_RDONLY|O_CLOEXEC";
  return r;
}

void append(benchmark::State& state) {
  const Record r = record("allow");
  for (auto _ : state)
    if (!log_of_this_run->append(r)) state.SkipWithError("refused");
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(append)->Setup(set_up)->Teardown(tear_down)->Threads(1)->Threads(2)->Threads(4)->UseRealTime();

// What a caller waits for. Calls come one after the other with work between
// them, so the writer keeps up: its part is waited for outside of the time.
void append_what_the_writer_keeps_up_with(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  constexpr int kCalls = 500;
  const Record r = record("allow");
  for (auto _ : state) {
    const auto begin = Clock::now();
    for (int i = 0; i < kCalls; ++i)
      if (!log_of_this_run->append(r)) state.SkipWithError("refused");
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count() / kCalls);
    if (!log_of_this_run->sync(std::chrono::seconds(10))) state.SkipWithError("not written");
  }
}
BENCHMARK(append_what_the_writer_keeps_up_with)
    ->Setup(set_up)->Teardown(tear_down)->Threads(1)->Threads(2)->Threads(4)->UseManualTime()->Iterations(200);

void append_repeated_refusal(benchmark::State& state) {
  const Record r = record("deny");
  for (auto _ : state)
    if (!log_of_this_run->append(r)) state.SkipWithError("refused");
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(append_repeated_refusal)->Setup(set_up)->Teardown(tear_down)->Threads(1)->Threads(8)->UseRealTime();

void ready(benchmark::State& state) {
  const std::string session = "web-1";
  for (auto _ : state) benchmark::DoNotOptimize(log_of_this_run->ready(session));
}
BENCHMARK(ready)->Setup(set_up)->Teardown(tear_down);

}  // namespace

BENCHMARK_MAIN();
