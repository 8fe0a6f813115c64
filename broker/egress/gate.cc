#include "broker/egress/gate.h"

#include <algorithm>
#include <cerrno>

#include "broker/egress/tunnel.h"

namespace fbroker::broker {

using policy::Endpoint;

Result<std::shared_ptr<Tunnel>, EgressRefusal> EgressGate::open(const protocol::Caller& caller,
                                                                std::string_view asked, std::uint16_t port) {
  auto tunnel = std::make_shared<Tunnel>(*this, caller, asked);
  auto target = Endpoint::parse(asked, port);
  if (!target) return refuse(*tunnel, {400, target.error().text(), "egress:name"});
  tunnel->target_ = std::move(*target);
  if (!context_.audit.ready(context_.name)) return EgressRefusal{503, "the audit log takes no records", "egress:audit"};
  {
    const std::lock_guard lock(mutex_);
    if (tunnels_.size() < options_.max_tunnels) tunnels_.insert(tunnel);
  }
  // INVARIANT: the view is taken when the tunnel is on the list.
  const auto view = context_.admissions.current();
  std::unique_lock lock(mutex_);
  const bool listed = is_listed(*tunnel);
  if (listed) tunnel->decision_ = view->network->decide(tunnel->target_.host, tunnel->target_.port);
  lock.unlock();
  if (!listed)
    return refuse(*tunnel, {503, "there are " + std::to_string(options_.max_tunnels) + " connections already", "egress:limit"});
  if (tunnel->decision_.allowed) return tunnel;
  remove(*tunnel);
  return refuse(*tunnel, {403, tunnel->target_.text() + " is not allowed: " + tunnel->decision_.because,
                         tunnel->decision_.rule});
}

bool EgressGate::is_listed(const Tunnel& tunnel) const {
  return std::ranges::any_of(tunnels_, [&](const auto& one) { return one.get() == &tunnel; });
}

void EgressGate::remove(const Tunnel& tunnel) {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(tunnels_, [&](const auto& one) { return one.get() == &tunnel; });
  }
  removed_.notify_all();
}

EgressRefusal EgressGate::refused(const protocol::Caller& caller, std::string_view asked, const EgressRefusal& why) {
  return refuse(*std::make_shared<Tunnel>(*this, caller, asked), why);
}

EgressRefusal EgressGate::refuse(const Tunnel& tunnel, EgressRefusal why) {
  if (!record(tunnel, {.decision = "deny", .rule = why.rule, .error = EACCES, .detail = why.what}))
    return EgressRefusal{503, "the audit log takes no records", "egress:audit"};
  return why;
}

Result<void> EgressGate::record(const Tunnel& tunnel, const TunnelRecord& what) {
  audit::Record record;
  record.session = context_.name;
  record.operation = what.operation;
  record.decision = what.decision;
  record.reason = what.rule;
  record.error = what.error;
  record.detail = what.detail;
  record.host = tunnel.target_.port != 0 ? tunnel.target_.host.text() : tunnel.asked_;
  record.port = tunnel.target_.port;
  if (tunnel.address_) record.address = tunnel.address_->text();
  record.pid = tunnel.pid_;
  record.peer_pid = tunnel.peer_pid_;
  if (what.ended) {
    record.bytes_read = tunnel.down_;
    record.bytes_written = tunnel.up_;
    record.milliseconds = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(Tunnel::Clock::now() - tunnel.begun_).count());
  }
  if (!context_.audit.append(record)) return Error{"audit", "cannot be written"};
  return ok;
}

EgressGate::Cut EgressGate::cut_refused(std::chrono::milliseconds bound) {
  const auto view = context_.admissions.current();
  Cut cut;
  std::unique_lock lock(mutex_);
  std::vector<std::shared_ptr<Tunnel>> ending;
  for (const auto& tunnel : tunnels_) {
    // One that was not decided yet will be, by this view.
    const auto now = view->network->decide(tunnel->target_.host, tunnel->target_.port);
    const bool stricter = now.tls < tunnel->decision_.tls;
    if (now.allowed && now.instead == tunnel->decision_.instead && !stricter) continue;
    ++cut.count;
    if (tunnel->cut(now.rule)) ending.push_back(tunnel);
  }
  cut.ended = removed_.wait_for(lock, bound, [&] {
    return std::ranges::none_of(ending, [&](const auto& one) { return is_listed(*one); });
  });
  return cut;
}

std::size_t EgressGate::tunnels() const {
  const std::lock_guard lock(mutex_);
  return tunnels_.size();
}

}  // namespace fbroker::broker
