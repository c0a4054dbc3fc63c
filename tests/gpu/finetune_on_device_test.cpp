// A whole private run on a device against the same run on the CPU.
#include <gtest/gtest.h>

#include "base/torch.h"
#include "io/safetensors.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"
#include "train/private_training.h"

namespace dpldm::train {
namespace {

class FinetuneOnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "there is no GPU";
  }

  io::NamedTensors weights_of_run(const std::string& device, const std::string& set, std::int64_t micro_batch) {
    config::FinetuneConfig config;
    config.model = model_.model.string();
    config.latents = model_.latents.string();
    config.steps = 6;
    config.expected_batch_size = 16;
    config.noise_multiplicity = 2;
    config.clip_norm = 0.05;
    config.delta = 1e-3;
    config.noise_multiplier = 0.8;
    config.test_seed = 5;
    config.accountant = "rdp";
    config.optimizer.learning_rate = 1e-2;
    config.trained_set = set;
    config.lora_rank = 2;
    config.runtime.device = device;
    config.runtime.threads = 1;
    config.runtime.micro_batch_size = micro_batch;
    const std::filesystem::path run_dir = directory_.path() / (device + set + std::to_string(micro_batch));
    run_private_training(config, {.run_dir = run_dir}, *comm::make_self_communicator());
    return io::read_safetensors(run_dir / "model/unet/diffusion_pytorch_model.safetensors");
  }

  test::TemporaryDirectory directory_;
  test::TinyModel model_ = test::make_tiny_model(directory_.path(), 24, data::Visibility::kPrivate);
};

TEST_F(FinetuneOnDevice, GivesTheModelOfTheCpu) {
  for (const std::string set : {"attention", "lora", "all"}) {
    const io::NamedTensors host = weights_of_run("cpu", set, 3);
    for (const std::int64_t micro_batch : {3, 0}) {
      const io::NamedTensors device = weights_of_run("cuda", set, micro_batch);
      ASSERT_EQ(device.size(), host.size());
      for (std::size_t i = 0; i < host.size(); ++i) {
        ASSERT_EQ(device[i].first, host[i].first);
        const double scale = std::max(1e-3, host[i].second.norm().item<double>());
        EXPECT_LE((device[i].second - host[i].second).norm().item<double>() / scale, 1e-3) << set << host[i].first;
      }
    }
  }
}

}  // namespace
}  // namespace dpldm::train
