#include "data/moments_prefetch.h"

#include <algorithm>

#include "base/error.h"

namespace dpldm::data {
namespace {

constexpr std::size_t kAhead = 2;

}  // namespace

MomentsPrefetch::MomentsPrefetch(const LatentFile& latents)
    : latents_(latents), thread_([this](const std::stop_token& stop) { run(stop); }) {}

void MomentsPrefetch::request(std::span<const std::int64_t> records) {
  const std::lock_guard lock(mutex_);
  pieces_.emplace_back().records.assign(records.begin(), records.end());
  changed_.notify_all();
}

at::Tensor MomentsPrefetch::take(std::span<const std::int64_t> records) {
  std::unique_lock lock(mutex_);
  if (pieces_.empty() ||
      !std::equal(records.begin(), records.end(), pieces_.front().records.begin(), pieces_.front().records.end())) {
    throw InternalError("moments are taken in another order than they were requested");
  }
  const auto begin = std::chrono::steady_clock::now();
  changed_.wait(lock, [this] { return pieces_.front().done; });
  waited_ += std::chrono::steady_clock::now() - begin;
  const Piece piece = std::move(pieces_.front());
  pieces_.pop_front();
  changed_.notify_all();
  if (piece.failure) std::rethrow_exception(piece.failure);
  return piece.moments;
}

MomentsPrefetch::Piece* MomentsPrefetch::next_to_read() {
  for (std::size_t i = 0; i < std::min(kAhead, pieces_.size()); ++i) {
    if (!pieces_[i].done) return &pieces_[i];
  }
  return nullptr;
}

void MomentsPrefetch::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    Piece* piece = nullptr;
    if (!changed_.wait(lock, stop, [&] { return (piece = next_to_read()) != nullptr; })) return;
    // Nobody removes or moves a piece that is not done.
    lock.unlock();
    try {
      piece->moments = latents_.read_moments(piece->records);
    } catch (...) {
      piece->failure = std::current_exception();
    }
    lock.lock();
    piece->done = true;
    changed_.notify_all();
  }
}

}  // namespace dpldm::data
