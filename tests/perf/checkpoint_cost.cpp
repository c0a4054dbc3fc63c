// What a checkpoint costs: the copy that training waits for, and the writing that may go on behind it.
#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "base/torch.h"
#include "train/checkpoint.h"

namespace {

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  using dpldm::train::CheckpointStore;
  cxxopts::Options options("perf_checkpoint_cost", "Times a checkpoint of weights, two moments and an average.");
  options.add_options()("parameters", "trained parameters", cxxopts::value<std::string>()->default_value("24000000"))(
      "directory", "where to write", cxxopts::value<std::string>()->default_value("/tmp"));
  const auto given = options.parse(argc, argv);
  const std::int64_t parameters = std::stoll(given["parameters"].as<std::string>());
  const std::filesystem::path directory =
      std::filesystem::path(given["directory"].as<std::string>()) / fmt::format("dpldm-checkpoint-cost-{}", ::getpid());

  // As many tensors as an attention-only set of that size has.
  constexpr std::int64_t kTensors = 200;
  std::map<std::string, at::Tensor> tensors;
  for (std::int64_t i = 0; i < kTensors; ++i)
    tensors.emplace(fmt::format("t{}", i), torch::randn({parameters / kTensors}));
  std::map<std::string, at::Tensor> moments;
  for (const char* kind : {"exp_avg", "exp_avg_sq", "average"}) {
    for (const auto& [name, tensor] : tensors) moments.emplace(fmt::format("{}.{}", kind, name), tensor.clone());
  }

  const CheckpointStore store(directory, 1, 0);
  std::map<std::string, at::Tensor> copy_of_weights = tensors;
  std::map<std::string, at::Tensor> copy_of_moments = moments;
  const double copying = seconds([&] {
    for (auto& [name, tensor] : copy_of_weights) tensor = tensor.clone();
    for (auto& [name, tensor] : copy_of_moments) tensor = tensor.clone();
  });
  const double writing = seconds([&] {
    std::vector<dpldm::train::CheckpointFile> files;
    files.push_back(dpldm::train::tensor_file("weights.safetensors", copy_of_weights));
    files.push_back(dpldm::train::tensor_file("optimizer.safetensors", copy_of_moments));
    dpldm::train::CheckpointInfo info;
    info.step = 1;
    store.save(info, files);
  });
  std::filesystem::remove_all(directory);
  fmt::print("{:.1f} M parameters, {:.0f} MB: copying {:.2f} s, writing, hashing and syncing {:.2f} s, ratio {:.0f}\n",
             1e-6 * static_cast<double>(parameters), 16e-6 * static_cast<double>(parameters), copying, writing,
             writing / copying);
}
