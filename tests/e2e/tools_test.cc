// The tools that agents use, in /workspace, as they are installed on the
// machine: docs/tools.md is this file's table. Each case is a script that ends
// with a line of its own when all of it worked.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/support/agent_session.h"

namespace fbroker::test {
namespace {

struct Tool {
  const char* name;
  const char* program;   // that must be there
  const char* script;    // in an empty /workspace; prints "done" at the end
};

constexpr char kGitUser[] =
    "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com\n";

const Tool kTools[]{
    {"GitDaily", "/usr/bin/git", R"sh(
git init -q -b main repo; cd repo
for i in $(seq 50); do mkdir -p d$i; echo $i > d$i/f; done
git add -A; git commit -qm first; git checkout -qb side; echo side > s; git add s; git commit -qm side
git checkout -q main; echo m > m; git add m; git commit -qm m; git merge -q side -m merged
git checkout -q -b again HEAD~1; echo x > x; git add x; git commit -qm x; git rebase -q main
echo dirty > s; git stash -q; git stash pop -q; git diff --quiet s && exit 1; git checkout -q s
git mv d1 e1; git commit -qm moved; git gc -q; git fsck --strict; [ -z "$(git status --porcelain)" ]
)sh"},
    {"GitWorktreesInOnesOwnRepository", "/usr/bin/git", R"sh(
cd /workspace/person
git worktree add -q ../wt -b side; echo w > ../wt/w; git -C ../wt add w; git -C ../wt commit -qm w
[ "$(git worktree list | wc -l)" = 2 ]; git merge -q side; [ -f w ]; git worktree remove ../wt
)sh"},
    {"GitSubmodules", "/usr/bin/git", R"sh(
git init -q lib; cd lib; echo x > x; git add x; git commit -qm x; cd ..
git init -q top; cd top; git -c protocol.file.allow=always submodule --quiet add ../lib sub; git commit -qm sub
git submodule status | grep ' sub ' >/dev/null; cd ..
git -c protocol.file.allow=always clone -q --recurse-submodules top copy; [ -f copy/sub/x ]
)sh"},
    {"NpmFromFoldersAndTarballs", "/usr/bin/npm", R"sh(
mkdir -p left/bin app; cd left
echo '{"name":"left","version":"1.0.0","main":"i.js","bin":{"left":"bin/left.js"}}' > package.json
echo 'module.exports = 42' > i.js; printf '#!/usr/bin/env node\nconsole.log(require("../i.js"))\n' > bin/left.js; chmod +x bin/left.js
npm pack --silent >/dev/null; cd ../app; echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --silent ../left/left-1.0.0.tgz
[ "$(node -e 'console.log(require("left"))')" = 42 ]; [ "$(npx --no-install left)" = 42 ]
npm install --offline --no-audit --no-fund --silent ../left; [ "$(node_modules/.bin/left)" = 42 ]
npm ci --offline --no-audit --no-fund --silent; [ -f package-lock.json ]
)sh"},
    {"PythonVenv", "/usr/bin/python3", R"sh(
/usr/bin/python3 -m venv .venv; . .venv/bin/activate
python - <<'END'
import zipfile
with zipfile.ZipFile('hello-1-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('hello/__init__.py', 'def greet(): return "hi"\n')
    wheel.writestr('hello-1.dist-info/METADATA', 'Metadata-Version: 2.1\nName: hello\nVersion: 1\n')
    wheel.writestr('hello-1.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr('hello-1.dist-info/RECORD', '')
END
python -m pip install -q --no-index --disable-pip-version-check ./hello-1-py3-none-any.whl
[ "$(python -c 'import hello; print(hello.greet())')" = hi ]
printf 'import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(1, 1)\n' > test_it.py; python -m unittest -q test_it
)sh"},
    {"CargoOffline", "/usr/bin/cargo", R"sh(
export PATH=/usr/bin:/bin
mkdir -p dep/src; printf '[package]\nname="dep"\nversion="0.1.0"\nedition="2021"\n' > dep/Cargo.toml
echo 'pub fn answer() -> u32 { 42 }' > dep/src/lib.rs
cargo new -q --vcs none app; cd app; echo 'dep = { path = "../dep" }' >> Cargo.toml
echo 'fn main() { println!("{}", dep::answer()); } #[test] fn t() { assert_eq!(dep::answer(), 42); }' > src/main.rs
cargo build -q --offline; [ "$(target/debug/app)" = 42 ]; cargo test -q --offline >/dev/null
)sh"},
    {"CmakeAndNinja", "/usr/bin/cmake", R"sh(
printf 'cmake_minimum_required(VERSION 3.20)\nproject(p C)\nadd_library(l l.c)\nadd_executable(p p.c)\ntarget_link_libraries(p l)\nenable_testing()\nadd_test(NAME t COMMAND p)\n' > CMakeLists.txt
echo 'int f(void) { return 0; }' > l.c; echo 'int f(void); int main(void) { return f(); }' > p.c
cmake -G Ninja -B build . >/dev/null; cmake --build build >/dev/null; ctest --test-dir build -Q
touch l.c; ninja -C build -n | grep l.c >/dev/null; ninja -C build >/dev/null; ninja -C build | grep 'no work' >/dev/null
)sh"},
    {"Sqlite", "/usr/bin/sqlite3", R"sh(
sqlite3 a.db 'pragma journal_mode=wal; create table t(x); insert into t values (1);' >/dev/null
for i in 1 2 3 4; do (for j in $(seq 25); do sqlite3 -cmd '.timeout 20000' a.db "insert into t values ($j)"; done) & done; wait
[ "$(sqlite3 a.db 'select count(*) from t')" = 101 ]; [ "$(sqlite3 a.db 'pragma integrity_check')" = ok ]
)sh"},
    {"Vim", "/usr/bin/vim", R"sh(
printf 'one\ntwo\n' > a.txt
vim -Nu NONE -es -c 'set backup undofile' -c '%s/two/three/' -c 'wq' a.txt </dev/null
[ "$(tail -1 a.txt)" = three ]; [ -z "$(find . -name '*.swp')" ]
)sh"},
    {"Ripgrep", "/usr/bin/rg", R"sh(
mkdir -p a/b node_modules; echo needle > a/b/c; echo needle > node_modules/x; echo node_modules > .ignore
for i in $(seq 500); do echo hay > a/f$i; done
[ "$(rg -l needle .)" = ./a/b/c ]; [ "$(rg --files a | wc -l)" = 501 ]; rg -q absent . && exit 1; [ "$(rg -uu -c needle . | wc -l)" = 2 ]
)sh"},
    {"MakeAndACompiler", "/usr/bin/make", R"sh(
for i in $(seq 20); do echo "int f$i(void) { return $i; }" > f$i.c; done; echo 'int main(void) { return 0; }' > main.c
printf 'O=$(patsubst %%.c,%%.o,$(wildcard *.c))\np: $(O)\n\tcc -o p $(O)\n' > Makefile
make -s -j2; ./p; [ -z "$(make -s -q; echo $? | grep -v 0)" ]
)sh"},
    {"ArchivesAndLinks", "/usr/bin/tar", R"sh(
mkdir -p t/u; for i in $(seq 300); do echo $i > t/u/$i; done; ln -s u/1 t/link; ln t/u/2 t/hard; chmod +x t/u/3
tar cf a.tar t; mkdir x; tar xf a.tar -C x; diff -r t x/t; [ "$(readlink x/t/link)" = u/1 ]; [ -x x/t/u/3 ]; rm -r t x
)sh"},
};

class Tools : public testing::TestWithParam<std::tuple<std::size_t, std::string>> {};

TEST_P(Tools, WorksInTheWorkspace) {
  const Tool& tool = kTools[std::get<0>(GetParam())];
  const bool ordinary = std::get<1>(GetParam()) == "ordinary";
  if (ordinary && ::getuid() != 0) GTEST_SKIP() << "we are the ordinary user already";
  ASSERT_EQ(::access(tool.program, X_OK), 0) << tool.program << " is missing: examples/setup.sh --tests installs it";
  const Home home(ordinary ? "fbroker-test" : "");
  home.shell("git init -q -b main person && cd person && echo p > p && git add p && "
             "git -c user.name=p -c user.email=p@example.com commit -qm person");
  const Output output = home.fbroker({"run", "-q", "--", "bash", "-euo", "pipefail", "-c",
                                      std::string(kGitUser) + tool.script + "\necho all of it is done\n"});
  EXPECT_TRUE(output.out.ends_with("all of it is done\n")) << output.out << output.err;
  EXPECT_EQ(output.status, 0);
}

INSTANTIATE_TEST_SUITE_P(, Tools,
                         testing::Combine(testing::Range<std::size_t>(0, std::size(kTools)),
                                          testing::Values(std::string(::getuid() == 0 ? "root" : "self"), std::string("ordinary"))),
                         [](const auto& c) { return std::string(kTools[std::get<0>(c.param)].name) + "_" + std::get<1>(c.param); });

// What a preset gives is enough for its tools, and no more.
TEST(Presets, AreEnoughForTheirToolsAndLeaveTheSourcesAlone) {
  const Home home(::getuid() == 0 ? "fbroker-test" : "");
  home.write("p.json", R"({"version":1,"rules":[{"allow":"read","paths":["/"]},
      {"allow":"write","paths":["/src","preset:git","preset:node","preset:python"]}]})");
  home.write("src/a.txt", "a\n");
  home.write("package.json", "{\"name\":\"x\",\"version\":\"1.0.0\",\"dependencies\":{\"l\":\"file:./src/l\"}}\n");
  home.write("src/l/package.json", "{\"name\":\"l\",\"version\":\"1.0.0\"}\n");
  home.shell("git init -q . && git add -A && git -c user.name=p -c user.email=p@example.com commit -qm person");
  const Output output = home.fbroker({"run", "-q", "--policy", "p.json", "--", "bash", "-euo", "pipefail", "-c", std::string(kGitUser) + R"sh(
echo more >> src/a.txt; git commit -qam more; git checkout -qb side
npm install --offline --no-audit --no-fund --silent; [ -d node_modules/l ]; [ -f package-lock.json ]
/usr/bin/python3 -m venv --without-pip .venv; .venv/bin/python -c 'print("py")'
echo x >> package.json && exit 9; touch new.txt && exit 9; echo x > .git/hooks/pre-commit && exit 9
echo all of it is done)sh"});
  EXPECT_TRUE(output.out.ends_with("all of it is done\n")) << output.out << output.err;
}

}  // namespace
}  // namespace fbroker::test
