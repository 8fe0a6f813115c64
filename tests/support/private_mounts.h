// Runs a piece of a test in a child process with mounts of its own.
#pragma once

#include <functional>

namespace fbroker::test {

enum class ChildResult { passed, failed, impossible };

// `impossible`: this machine lets this user make no mount namespace.
// The child's EXPECTs print as usual; one that fails makes the result `failed`.
ChildResult in_private_mounts(const std::function<void()>& body);

}  // namespace fbroker::test
