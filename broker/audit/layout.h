// What lies in an audit directory besides the segments (segments.h).
#pragma once

namespace fbroker::audit {

inline constexpr char kLockName[] = "lock";   // held while a broker writes (fcntl(2) F_OFD_SETLK)
inline constexpr char kRingName[] = "ring";   // ring.h

}  // namespace fbroker::audit
