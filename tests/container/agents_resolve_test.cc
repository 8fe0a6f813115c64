// From a name to the files that an agent's program is made of, on machines as
// people have them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "container/agents/resolve.h"
#include "container/agents/launch.h"
#include "container/agents/walk.h"
#include "tests/support/temp_tree.h"

namespace fbroker::container::agents {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kNode[] = "#!/bin/sh\necho v22.3.0\n";
constexpr char kNodeScript[] = "#!/usr/bin/env node\nconsole.log('hi')\n";

class Resolve : public testing::Test {
 protected:
  Resolve() {
    for (const char* directory : {"home", "work/project", "state"}) tree.mkdir(directory);
    forbidden = {.home = at("home"), .workspace_root = at("work/project"), .own = {at("state")}};
    person = {.path = at("home/bin") + ":/usr/bin:/bin", .home = at("home")};
    profile.name = "demo";
    profile.title = "Demo";
    profile.install = "npm install -g demo";
    profile.program.names = {"demo"};
  }
  std::string at(const std::string& below) const { return fs::canonical(tree.path()).string() + "/" + below; }
  void program(const std::string& below, std::string_view text = "\x7f" "ELF") {
    tree.write(below, text);
    ASSERT_EQ(::chmod(at(below).c_str(), 0755), 0);
  }
  void link(const std::string& target, const std::string& below) {
    fs::create_directories(fs::path(at(below)).parent_path());
    fs::create_symlink(target, at(below));
  }
  std::vector<std::string> shown(const Resolved& found) const {
    std::vector<std::string> paths;
    for (const Shown& one : found.shown) paths.push_back(one.path + (one.directory ? "/" : ""));
    return paths;
  }
  std::string refusal() const {
    const auto found = resolve(profile, person, forbidden);
    return found ? "(found " + found->program + ")" : found.error().text();
  }

  test::TempTree tree;
  Forbidden forbidden;
  Person person;
  Profile profile;
};

#define ASSERT_RESOLVED(found) \
  auto found = resolve(profile, person, forbidden); \
  ASSERT_TRUE(found) << found.error().text()

TEST_F(Resolve, AStandaloneProgramIsOneFile) {
  program("home/.local/share/demo/versions/2.1");
  link("../share/demo/versions/2.1", "home/.local/bin/demo");
  profile.program.places = {"~/.nowhere/demo", "~/.local/bin/demo"};
  ASSERT_RESOLVED(found);
  EXPECT_EQ(found->found, at("home/.local/bin/demo"));
  EXPECT_EQ(found->program, at("home/.local/share/demo/versions/2.1"));
  EXPECT_THAT(shown(*found), ElementsAre(at("home/.local/share/demo/versions/2.1")));
  EXPECT_THAT(found->programs, IsEmpty());
}

TEST_F(Resolve, PathComesBeforeOtherPlacesAndOnlyItsAbsoluteEntriesCount) {
  program("home/bin/demo");
  program("home/other/demo");
  profile.program.places = {"~/other/demo"};
  EXPECT_EQ(find_program(profile.program, person), at("home/bin/demo"));
  person.path = "bin:.:" + at("home/missing");
  EXPECT_EQ(find_program(profile.program, person), at("home/other/demo"));
  profile.program.places.clear();
  EXPECT_EQ(find_program(profile.program, person), "");
}

TEST_F(Resolve, AGlobalNpmPackageComesWithTheModulesAroundItAndItsNode) {
  // As nvm lays it out: a Node of its own, its packages beside it.
  program("home/.nvm/versions/node/v22/bin/node", kNode);
  program("home/.nvm/versions/node/v22/lib/node_modules/@x/demo/cli.js", kNodeScript);
  program("home/.nvm/versions/node/v22/lib/node_modules/@x/demo/node_modules/dep/index.js", "");
  link("../lib/node_modules/@x/demo/cli.js", "home/.nvm/versions/node/v22/bin/demo");
  person.path = at("home/.nvm/versions/node/v22/bin") + ":/usr/bin";
  profile.program.node = 22;
  ASSERT_RESOLVED(found);
  EXPECT_EQ(found->program, at("home/.nvm/versions/node/v22/lib/node_modules/@x/demo/cli.js"));
  EXPECT_THAT(shown(*found), ElementsAre(at("home/.nvm/versions/node/v22/lib/node_modules/"),
                                         at("home/.nvm/versions/node/v22/bin/node")));
  EXPECT_THAT(found->programs, ElementsAre(at("home/.nvm/versions/node/v22/bin")));
}

TEST_F(Resolve, TheOutermostModulesAreShown) {
  program("home/.claude/local/node_modules/@x/demo/node_modules/y/cli.js", "\x7f" "ELF");
  link("../@x/demo/node_modules/y/cli.js", "home/.claude/local/node_modules/.bin/demo");
  profile.program.places = {"~/.claude/local/node_modules/.bin/demo"};
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("home/.claude/local/node_modules/")));
  EXPECT_THAT(found->links, IsEmpty()) << "it lies in what is shown";
}

TEST_F(Resolve, ANodeAmongTheModulesNeedsNoMountOfItsOwn) {
  program("kit/node_modules/node/bin/node", kNode);
  program("kit/node_modules/demo/cli.js", kNodeScript);
  link("../node/bin/node", "kit/node_modules/.bin/node");
  link("../demo/cli.js", "kit/node_modules/.bin/demo");
  person.path = at("kit/node_modules/.bin");
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("kit/node_modules/")));
  EXPECT_THAT(found->programs, ElementsAre(at("kit/node_modules/.bin")));
}

TEST_F(Resolve, ANodeBehindLinksIsFoundAlongTheSameLinks) {
  program("home/.nvm/versions/node/v22/bin/node", kNode);
  link("versions/node/v22", "home/.nvm/current");
  link(at("home/.nvm/current/bin/node"), "home/bin/node");
  program("home/bin/node_modules/demo/cli.js", kNodeScript);
  link("node_modules/demo/cli.js", "home/bin/demo");
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("home/bin/node_modules/"), at("home/.nvm/versions/node/v22/bin/node")));
  EXPECT_THAT(found->programs, ElementsAre(at("home/bin")));
  std::vector<std::string> links;
  for (const Symlink& one : found->links) links.push_back(one.at + " " + one.target);
  EXPECT_THAT(links, ElementsAre(at("home/bin/demo") + " node_modules/demo/cli.js",
                                 at("home/bin/node") + " " + at("home/.nvm/current/bin/node"),
                                 at("home/.nvm/current") + " versions/node/v22"));
}

TEST_F(Resolve, TooOldANodeIsNamedWithItsCure) {
  program("home/bin/node", "#!/bin/sh\necho v18.19.1\n");
  program("home/lib/node_modules/demo/cli.js", kNodeScript);
  link("../lib/node_modules/demo/cli.js", "home/bin/demo");
  profile.program.node = 20;
  EXPECT_THAT(refusal(), testing::AllOf(HasSubstr("needs Node 20 or newer"), HasSubstr("~/bin/node is v18.19.1"),
                                        HasSubstr("npm install -g node")));
  program("home/bin/node", "#!/bin/sh\necho nonsense\n");
  EXPECT_THAT(refusal(), HasSubstr("tells its version"));
  program("home/bin/node", "#!/bin/sh\necho v20.0.0\n");
  EXPECT_THAT(refusal(), HasSubstr("(found "));
  fs::remove(at("home/bin/node"));
  person.path = at("home/bin");
  EXPECT_THAT(refusal(), HasSubstr("is a script for node, which is not in PATH"));
}

TEST_F(Resolve, APythonEnvironmentComesWithThePythonItWasMadeFrom) {
  // As uv lays it out, with a link for the minor version on the way.
  program("home/.local/share/uv/python/cpython-3.12.5/bin/python3.12");
  link("cpython-3.12.5", "home/.local/share/uv/python/cpython-3.12");
  link(at("home/.local/share/uv/python/cpython-3.12/bin/python3.12"), "home/.local/share/uv/tools/demo/bin/python");
  tree.write("home/.local/share/uv/tools/demo/pyvenv.cfg", "home = x\n");
  program("home/.local/share/uv/tools/demo/bin/demo", "#!" + at("home/.local/share/uv/tools/demo/bin/python") + "\n");
  link("../share/uv/tools/demo/bin/demo", "home/.local/bin/demo");
  profile.program.places = {"~/.local/bin/demo"};
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("home/.local/share/uv/tools/demo/"),
                                         at("home/.local/share/uv/python/cpython-3.12.5/")));
  std::vector<std::string> links;
  for (const Symlink& one : found->links) links.push_back(one.at);
  EXPECT_THAT(links, testing::Contains(at("home/.local/share/uv/python/cpython-3.12")));
}

TEST_F(Resolve, AnEnvironmentOfTheSystemsPythonIsAllThatIsNeeded) {
  link("/usr/bin/python3", "home/venv/bin/python");
  tree.write("home/venv/pyvenv.cfg", "home = /usr/bin\n");
  program("home/venv/bin/demo", "#!/bin/sh\n'''exec' python\n");
  profile.program.places = {"~/venv/bin/demo"};
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("home/venv/")));
}

TEST_F(Resolve, APythonProgramWithoutAnEnvironmentIsRefusedWithItsCure) {
  program("home/bin/demo", "#!/usr/bin/python3\nimport demo\n");
  profile.install = "pipx install demo";
  EXPECT_THAT(refusal(), testing::AllOf(HasSubstr("belongs to no Python environment"), HasSubstr("pipx install demo")));
}

TEST_F(Resolve, AProfileThatSaysSoGetsTheDirectory) {
  program("home/.local/share/demo/v1/demo", "#!/bin/bash\nexec \"$(dirname \"$(realpath \"$0\")\")/node\"\n");
  program("home/.local/share/demo/v1/node");
  link("../share/demo/v1/demo", "home/.local/bin/demo");
  profile.program.places = {"~/.local/bin/demo"};
  profile.program.directory = true;
  ASSERT_RESOLVED(found);
  EXPECT_THAT(shown(*found), ElementsAre(at("home/.local/share/demo/v1/")));
  // But not when that is HOME.
  program("home/demo");
  profile.program.places = {"~/demo"};
  EXPECT_THAT(refusal(), HasSubstr("would show your home directory"));
}

TEST_F(Resolve, WhatTheSystemShowsNeedsNothing) {
  profile.program.names = {"env"};
  ASSERT_RESOLVED(found);
  EXPECT_EQ(found->program, "/usr/bin/env");
  EXPECT_THAT(shown(*found), IsEmpty());
  EXPECT_THAT(found->links, IsEmpty());
}

TEST_F(Resolve, AManagersShimIsPassedOver) {
  program("home/.pyenv/shims/demo", "#!/bin/sh\n");
  program("home/.volta/bin/volta-shim");
  link("volta-shim", "home/.volta/bin/demo");
  person.path = at("home/.pyenv/shims") + ":" + at("home/.volta/bin");
  EXPECT_THAT(refusal(), testing::AllOf(HasSubstr("only found as ~/.pyenv/shims/demo"), HasSubstr("npm install -g demo")));
  program("home/real/demo");
  person.path += ":" + at("home/real");
  EXPECT_THAT(refusal(), HasSubstr("(found " + at("home/real/demo")));
}

TEST_F(Resolve, WhatIsNotInstalledSaysHowItIs) {
  EXPECT_THAT(refusal(), testing::AllOf(HasSubstr("--agent demo: Demo is not installed"), HasSubstr("npm install -g demo")));
  tree.write("home/bin/demo", "not executable");
  EXPECT_THAT(refusal(), HasSubstr("not installed"));
}

// ---- attacks ----

// ATTACK: the last agent put a program into the workspace, where PATH looks.
TEST_F(Resolve, NoProgramComesOutOfTheWorkspace) {
  program("work/project/node_modules/.bin/demo");
  person.path = at("work/project/node_modules/.bin");
  EXPECT_THAT(refusal(), HasSubstr("overlaps the workspace"));
}

// ATTACK: or a link there to something that the next run shall show.
TEST_F(Resolve, NoLinkInTheWorkspaceIsFollowed) {
  program("home/secret/key");
  link(at("home/secret/key"), "work/project/node_modules/.bin/demo");
  person.path = at("work/project/node_modules/.bin");
  EXPECT_THAT(refusal(), HasSubstr("overlaps the workspace"));
  // Through a directory of the person's that is a link into it, too.
  link(at("work/project/node_modules/.bin"), "home/kit");
  person.path = at("home/kit");
  EXPECT_THAT(refusal(), HasSubstr("overlaps the workspace"));
}

// ATTACK: or a `node`, which would be run outside to learn its version.
TEST_F(Resolve, NoNodeOutOfTheWorkspaceIsEverRun) {
  program("work/project/bin/node", "#!/bin/sh\ntouch " + at("home/was-run") + "\necho v22.0.0\n");
  program("home/bin/node_modules/demo/cli.js", kNodeScript);
  link("node_modules/demo/cli.js", "home/bin/demo");
  person.path = at("work/project/bin") + ":" + at("home/bin");
  profile.program.node = 20;
  EXPECT_THAT(refusal(), HasSubstr("overlaps the workspace"));
  EXPECT_FALSE(tree.exists("home/was-run"));
}

TEST_F(Resolve, WhatIsPrivateIsNotShownForAProgram) {
  program("home/node_modules_of_home");
  // The modules around it would be HOME's whole parent, HOME itself, our state.
  program("state/node_modules/demo");
  link(at("state/node_modules/demo"), "home/bin/demo");
  EXPECT_THAT(refusal(), HasSubstr("fbroker's own files"));
  fs::remove(at("home/bin/demo"));
  forbidden.home = at("node_modules/home");
  program("node_modules/home/demo");
  link(at("node_modules/home/demo"), "home/bin/demo");
  EXPECT_THAT(refusal(), HasSubstr("would show your home directory"));
  // Python's own place: a prefix that holds HOME.
  fs::remove(at("home/bin/demo"));
  forbidden.home = at("prefix/home");
  tree.mkdir("prefix/home");
  program("prefix/bin/python3");
  program("home/bin/demo", "#!" + at("prefix/bin/python3") + "\n");
  EXPECT_THAT(refusal(), HasSubstr("would show your home directory"));
}

TEST_F(Resolve, ScriptsForScriptsEnd) {
  program("home/bin/a", "#!" + at("home/bin/b") + "\n");
  program("home/bin/b", "#!" + at("home/bin/a") + "\n");
  link("a", "home/bin/demo");
  EXPECT_THAT(refusal(), HasSubstr("a script for a script"));
}

TEST_F(Resolve, AnIncompleteFirstLineIsNoCrash) {
  for (const std::string text : {"#!", "#! ", "#!\n", "#!relative\n", "#!/missing/x\n", "#!/usr/bin/env missing\n"}) {
    program("home/bin/demo", text);
    EXPECT_THAT(refusal(), HasSubstr("is a script for")) << text;
  }
  program("home/bin/demo", "#!/usr/bin/env -S A=b");
  EXPECT_THAT(refusal(), HasSubstr("(found "));
}

// ---- walking ----

TEST_F(Resolve, AWalkTellsEveryLinkAndTheRealPlace) {
  tree.write("a/file", "x");
  link("../a", "b/one");
  link("one/./file", "b/two");
  const auto walked = walk(at("b//two"));
  ASSERT_TRUE(walked) << walked.error().text();
  EXPECT_EQ(walked->real, at("a/file"));
  ASSERT_EQ(walked->links.size(), 2u);
  EXPECT_EQ(walked->links[0].at, at("b/two"));
  EXPECT_EQ(walked->links[1].at, at("b/one"));
  EXPECT_EQ(walk("/")->real, "/");
  EXPECT_EQ(walk("/../..")->real, "/");
}

TEST_F(Resolve, AWalkEnds) {
  link("loop", "loop");
  EXPECT_FALSE(walk(at("loop")));
  EXPECT_FALSE(walk(at("missing/x")));
}

// ---- a command that the sandbox would not find ----

TEST_F(Resolve, ACommandOfThePersonsIsToldHowItIsShown) {
  SandboxSpec spec;
  program("home/.local/bin/claude");
  program("home/.local/bin/mytool");
  person.path = at("home/.local/bin") + ":/usr/bin";
  const auto says = [&](const std::string& command) {
    const auto checked = check_command(command, person, spec, {});
    return checked ? std::string() : checked.error().text();
  };
  EXPECT_EQ(says("claude"), "claude is at ~/.local/bin, which the sandbox does not show: use --agent claude or --tool DIR");
  EXPECT_EQ(says("mytool"), "mytool is at ~/.local/bin, which the sandbox does not show: use --tool ~/.local/bin");
  EXPECT_THAT(says(at("home/.local/bin/mytool")), HasSubstr("which the sandbox does not show"));
  for (const char* fine : {"sh", "/bin/sh", "no-such-program", "./run.sh", "/workspace/x", "/home/agent/x", "/etc/passwd"})
    EXPECT_EQ(says(fine), "") << fine;
  spec.tools.push_back({.source = at("home/.local"), .at = at("home/.local")});
  EXPECT_EQ(says(at("home/.local/bin/mytool")), "");
  EXPECT_TRUE(check_command("mytool", person, spec, {at("home/.local/bin")}));
}

}  // namespace
}  // namespace fbroker::container::agents
