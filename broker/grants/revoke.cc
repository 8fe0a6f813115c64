#include "broker/grants/revoke.h"

#include <fcntl.h>

#include "broker/sessions/session.h"

namespace fbroker::broker {

using protocol::EventKind;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr milliseconds kAppearBound{500};

// Step 2. Who is inside under the old view either leaves, or is a client that
// does not read its reply: then its connection goes.
void drain(Session& session, Finality& finality) {
  if (session.admissions().drain(kRevokeBound)) return;
  finality.connections_cut += session.front().abort_older_than_publish();
  finality.drained = session.admissions().drain(kRevokeBound);
}

protocol::FileIdentity identity_at(Session& session, const WorkspacePath& path) {
  const auto view = session.view();
  const Export* on = view->exports->find(path);
  if (on == nullptr) return {};
  const auto fd = on->open(path, O_PATH | O_NOFOLLOW);
  if (!fd) return {};
  const auto stat = stat_of(fd->get());
  return stat ? stat->identity : protocol::FileIdentity{};
}

// The name at `path`, and the directories that may have come or gone with it.
std::uint64_t tell_names(EventBus& events, const WorkspacePath& path) {
  std::uint64_t last = 0;
  for (WorkspacePath at = path; !at.is_root(); at = at.parent())
    last = events.publish(EventKind::entry, at);
  return last;
}

// What clients may know it by.
// ATTACK: the identity of what was hidden all the time says that it exists.
protocol::FileIdentity identity_shown(Session& session, const WorkspacePath& path) {
  const bool shown = session.view()->snapshot->decide(path).visible();
  return shown ? identity_at(session, path) : protocol::FileIdentity{};
}

// Step 3, the clients' part. Returns the sequence to be acknowledged.
std::uint64_t tell(Session& session, const std::vector<Touched>& touched,
                   const std::vector<protocol::FileIdentity>& identities) {
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < touched.size(); ++i) {
    const Touched& place = touched[i];
    last = session.events().publish(place.retire ? EventKind::retire : EventKind::forget, place.path, identities[i]);
    if (const auto names = tell_names(session.events(), place.path); names != 0) last = names;
  }
  return last;
}

// Whether everybody who may hold something forgot it.
// ATTACK: keep the sandbox's file system from listening, or use the moment in
//   which it does not (a restarted broker): what it knows would outlive a revoke
//   that found nobody to tell. So where it has to listen and does not, it is
//   waited for and told anew; it drops all that it had before it hears that.
bool all_forgot(Session& session, const std::vector<Touched>& touched,
                const std::vector<protocol::FileIdentity>& identities, std::uint64_t told) {
  if (told == 0) return true;
  if (!session.events().wait_acknowledged(told, kRevokeBound)) return false;
  if (session.mount()) return true;   // it listens for as long as it serves
  const auto sandbox = session.sandbox();
  HttpFront& front = session.front();
  if (sandbox == nullptr || front.file_service_acknowledged(told) || !sandbox->has_file_service()) return true;
  if (!front.wait_file_service(kRevokeBound)) return false;
  told = tell(session, touched, identities);
  return session.events().wait_acknowledged(told, kRevokeBound) &&
         (front.file_service_acknowledged(told) || !sandbox->has_file_service());
}

// Whoever has not forgotten in time still holds pages, in a kernel that we
// cannot reach: its connections go, and it goes, before the person is answered.
void cut_off(Session& session, Finality& finality) {
  finality.acknowledged = false;
  finality.connections_cut += session.front().abort_all();
  finality.sandbox_killed = session.kill_sandbox(kRevokeBound);
}

// Step 0: what was written and lies with the kernel goes to the host while it
// may. Bounded: who holds it up loses what he has not let go.
bool flush(Session& session, const std::vector<Touched>& touched,
           const std::vector<protocol::FileIdentity>& identities) {
  const auto mount = session.mount();
  if (!mount || touched.empty() || !mount->writes_back()) return true;
  std::vector<WorkspacePath> places;
  for (const Touched& place : touched) places.push_back(place.path);
  std::vector<protocol::FileIdentity> files = identities;
  std::erase_if(files, [](const protocol::FileIdentity& file) { return file.any(); });
  return mount->write_back(places, files);
}

}  // namespace

// INVARIANT: a revoke is final when it returns. The order is the proof:
//   0. What was written before is on the host, while that is still allowed.
//   1. From publish() on, every operation is admitted under the new view.
//   2. After drain() nobody is at work under an old one, the reply's last byte
//      included.
//   3. So handles can be marked: none comes up behind us with an old right;
//      and clients can be told: what they ask anew is decided anew.
Finality make_final(Session& session, std::shared_ptr<const View> next,
                    const std::vector<Touched>& touched,
                    const std::vector<WorkspacePath>& pins_end) {
  const auto begun = steady_clock::now();
  Finality finality;
  std::vector<protocol::FileIdentity> identities;
  identities.reserve(touched.size());
  for (const Touched& place : touched) identities.push_back(place.file.any() ? identity_shown(session, place.path) : place.file);
  finality.flushed = flush(session, touched, identities);
  session.admissions().publish(std::move(next));
  drain(session, finality);
  for (const WorkspacePath& path : pins_end)
    finality.handles_closed += session.files().close_refused_handles(path);
  finality.handles_closed += session.files().close_refused_handles();
  const std::uint64_t told = tell(session, touched, identities);   // and forget, while tunnels end
  const EgressGate::Cut cut = session.egress().cut_refused(kRevokeBound);
  finality.tunnels_cut = cut.count;
  finality.drained = finality.drained && cut.ended;
  if (!all_forgot(session, touched, identities, told)) cut_off(session, finality);
  finality.milliseconds =
      std::chrono::duration<double, std::milli>(steady_clock::now() - begun).count();
  return finality;
}

void make_visible(Session& session, std::shared_ptr<const View> next,
                  const std::vector<WorkspacePath>& appeared) {
  session.admissions().publish(std::move(next));
  // INVARIANT: a client that asks after this event is decided under the new view.
  std::uint64_t told = 0;
  for (const WorkspacePath& path : appeared) {
    session.events().publish(EventKind::forget, path, identity_at(session, path));
    told = tell_names(session.events(), path);
    if (told == 0) told = session.events().last_sequence();
  }
  if (told != 0) session.events().wait_acknowledged(told, kAppearBound);
}

}  // namespace fbroker::broker
