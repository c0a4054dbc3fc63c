// Whole runs of private fine-tuning on N ranks, of the same small model each time. Test seeds, so nothing here is
// private. Every record is clipped. With 4 of 24 records expected in a step some ranks are often empty, and now and
// then all of them; with 16 expected, ranks have several micro-batches, each another number.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/torch.h"
#include "support/ranks_in_one_directory.h"
#include "train/private_training.h"

namespace dpldm::train {

using Tensors = std::map<std::string, at::Tensor>;

// Sums of fp32 in another order differ by about 1e-7 of their size; AdamW divides by the root of the second moment,
// which can enlarge that where a gradient is near zero.
inline constexpr double kTolerance = 1e-4;

// What `work` throws: on every rank the code and the message of rank 0's error.
struct Failure {
  ExitCode code = ExitCode::kDone;
  std::string message;
};

template <class Work>
Failure failure_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

template <class Work>
ExitCode code_of(const Work& work) {
  return failure_of(work).code;
}

class PrivateTrainingOnRanks : public test::RanksInOneDirectory {
 public:
  static constexpr std::int64_t kRecords = 24;

 protected:
  PrivateTrainingOnRanks();

  config::FinetuneConfig config() const;
  config::FinetuneConfig stopping_after_one_step() const;
  // The same run under keys of its own, with a budget that it does not come near.
  static config::FinetuneConfig claiming_privacy(config::FinetuneConfig config);

  // Collective over `comm`. The directory of the finished run.
  std::filesystem::path run(config::FinetuneConfig config, const std::string& name, comm::Communicator& comm,
                            bool resume = false);
  // On rank 0 alone, while the others wait.
  std::filesystem::path run_alone(const config::FinetuneConfig& config, const std::string& name);
  // Collective. Resumes until a run comes to its end.
  void resume_to_the_end(const config::FinetuneConfig& config, const std::string& name);
  // Collective.
  void remove_checkpoints(const std::string& name);
  // Collective. What each step of such a run releases: [D] each, in units of C.
  std::vector<at::Tensor> releases_of(config::FinetuneConfig config, const std::string& name);

  static Tensors weights(const std::filesystem::path& run_dir);
  Tensors weights_of_base() const;
  // The largest relative difference over tensors.
  static double largest_difference(const Tensors& a, const Tensors& b);
};

}  // namespace dpldm::train
