#include "mpi/private_training_on_ranks.h"

#include <algorithm>
#include <span>

#include "io/safetensors.h"
#include "mpi/interrupted_runs.h"
#include "support/tiny_model.h"

namespace dpldm::train {
namespace {

// Sees what a run releases, and takes no part in it.
class Observer : public StepCompanion {
 public:
  std::vector<std::int64_t> taking_part(std::int64_t /*step*/, const dp::SecretKey& /*selection*/,
                                        const PrivacyPlan& /*plan*/) override {
    return {};
  }
  void write(std::int64_t /*companion*/, std::span<float> /*vector*/) override {}
  void observe(std::span<const float> released) override {
    releases_.push_back(at::tensor(at::ArrayRef<float>(released.data(), released.size())));
  }
  const std::vector<at::Tensor>& releases() const { return releases_; }

 private:
  std::vector<at::Tensor> releases_;
};

// Of the U-Net in a model's directory.
Tensors unet_tensors(const std::filesystem::path& model) {
  Tensors tensors;
  for (auto& [name, tensor] : io::read_safetensors(model / "unet/diffusion_pytorch_model.safetensors"))
    tensors.emplace(name, tensor);
  return tensors;
}

}  // namespace

PrivateTrainingOnRanks::PrivateTrainingOnRanks() {
  if (world_->is_root()) test::make_tiny_model(root_, kRecords, data::Visibility::kPrivate);
  world_->barrier();
}

config::FinetuneConfig PrivateTrainingOnRanks::config() const {
  config::FinetuneConfig config;
  config.model = (root_ / "tiny").string();
  config.latents = (root_ / "latents.h5").string();
  config.steps = 12;
  config.expected_batch_size = 4;
  config.noise_multiplicity = 2;
  config.clip_norm = 0.05;
  config.delta = 1e-3;
  config.noise_multiplier = 0.8;
  config.test_seed = 5;
  config.accountant = "rdp";
  config.optimizer.learning_rate = 1e-2;
  config.runtime.threads = 1;
  config.runtime.micro_batch_size = 3;
  config.runtime.device = "cpu";
  return config;
}

config::FinetuneConfig PrivateTrainingOnRanks::stopping_after_one_step() const {
  config::FinetuneConfig stopping = config();
  stopping.checkpoint.max_minutes = 1e-9;  // the wish to stop is there from the start
  return stopping;
}

config::FinetuneConfig PrivateTrainingOnRanks::claiming_privacy(config::FinetuneConfig config) {
  config.test_seed.reset();
  config.noise_multiplier = 3;
  config.epsilon = 100;
  return config;
}

std::filesystem::path PrivateTrainingOnRanks::run(config::FinetuneConfig config, const std::string& name,
                                                  comm::Communicator& comm, bool resume) {
  std::filesystem::path directory = root_ / name;
  run_private_training(config, {.run_dir = directory, .resume = resume}, comm);
  return directory;
}

std::filesystem::path PrivateTrainingOnRanks::run_alone(const config::FinetuneConfig& config, const std::string& name) {
  if (world_->is_root()) run(config, name, *comm::make_self_communicator());
  world_->barrier();
  return root_ / name;
}

void PrivateTrainingOnRanks::resume_to_the_end(const config::FinetuneConfig& config, const std::string& name) {
  stops_of([&](bool) { run(config, name, *world_, /*resume=*/true); });
}

void PrivateTrainingOnRanks::remove_checkpoints(const std::string& name) {
  world_->barrier();
  if (world_->is_root()) std::filesystem::remove_all(root_ / name / "checkpoints");
  world_->barrier();
}

std::vector<at::Tensor> PrivateTrainingOnRanks::releases_of(config::FinetuneConfig config, const std::string& name) {
  Observer observer;
  run_private_training(config, {.run_dir = root_ / name}, *world_, &observer);
  return observer.releases();
}

Tensors PrivateTrainingOnRanks::weights(const std::filesystem::path& run_dir) {
  return unet_tensors(run_dir / "model");
}

Tensors PrivateTrainingOnRanks::weights_of_base() const { return unet_tensors(root_ / "tiny"); }

double PrivateTrainingOnRanks::largest_difference(const Tensors& a, const Tensors& b) {
  double largest = a.size() == b.size() ? 0 : 1e9;
  for (const auto& [name, tensor] : a) {
    const double scale = std::max(1e-3, tensor.norm().item<double>());
    largest = std::max(largest, (tensor - b.at(name)).norm().item<double>() / scale);
  }
  return largest;
}

}  // namespace dpldm::train
