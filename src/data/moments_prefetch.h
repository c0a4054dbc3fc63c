// Reads moments ahead of the network, from one thread, so that reading never delays a step.
//
// The order of reads is known in advance (selection is a function of the step), so a caller requests what it will need
// and takes it later, in the same order. The thread stays at most two requests ahead of what was taken: memory is two
// micro-batches, whatever the size of the file.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/latent_file.h"

namespace dpldm::data {

class MomentsPrefetch {
 public:
  // Starts the thread. As long as this object lives, no other thread may read from any HDF5 file of this process: HDF5
  // is not thread-safe. `latents` must outlive it.
  explicit MomentsPrefetch(const LatentFile& latents);
  MomentsPrefetch(const MomentsPrefetch&) = delete;
  MomentsPrefetch& operator=(const MomentsPrefetch&) = delete;

  // The moments of these records will be taken, after those of all earlier requests.
  void request(std::span<const std::int64_t> records);
  // The moments (as LatentFile::read_moments) of the oldest request, which must have been for `records`; waits for
  // them. Throws IoError when they could not be read, InternalError for other records.
  at::Tensor take(std::span<const std::int64_t> records);

  // How long `take` has waited, in all.
  std::chrono::duration<double> waited() const { return waited_; }

 private:
  struct Piece {
    std::vector<std::int64_t> records;
    at::Tensor moments;          // undefined until read
    std::exception_ptr failure;  // instead of moments
    bool done = false;
  };

  void run(const std::stop_token& stop);
  // The oldest request that is neither read nor too far ahead; null when there is none.
  Piece* next_to_read();

  const LatentFile& latents_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Piece> pieces_;  // in order of requests; the front is taken next. A deque: its elements do not move.
  std::chrono::duration<double> waited_{0};
  std::jthread thread_;  // last: it uses the others
};

}  // namespace dpldm::data
