// The clipped sum does not depend on how records are shared among ranks and micro-batches, with clipping active: the
// part that release_test.cpp and private_training_model_test.cpp take for granted, without noise over it.
#include <algorithm>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "comm/communicator.h"
#include "dp/clipped_sum.h"
#include "dp/record_selection.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "support/mpi_test.h"
#include "support/small_networks.h"

namespace dpldm::dp {
namespace {

constexpr std::int64_t kRecords = 9;
constexpr std::int64_t kDraws = 2;
// fp32 in another order: micro-batches of another shape round otherwise inside the network too. Relative, of the norm.
constexpr double kTolerance = 2e-6;

model::UNetConfig network_config() {
  model::UNetConfig config = test::small_unet_config();
  config.cross_attention_dim = 16;
  config.num_classes = 11;
  return config;
}

class ClippedSumOnRanks : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(17);  // the same on all ranks
    network_ = std::make_shared<model::UNet>(network_config());
    const torch::NoGradGuard no_grad;
    for (auto& parameter : network_->parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
    const std::int64_t rows = kRecords * kDraws;
    x_ = torch::randn({rows, 4, 6, 5});
    // Records differ in size, so that some are clipped and others are not.
    x_ *= torch::linspace(0.2, 2, kRecords).repeat_interleave(kDraws).view({rows, 1, 1, 1});
    t_ = torch::randint(0, 1000, {rows}, torch::kLong);
    labels_ = torch::randint(0, 10, {rows}, torch::kLong);
  }

  // The sum over `records`, in padded micro-batches as in training. Their norms are added to `norms`.
  at::Tensor sum_of(const std::vector<std::int64_t>& records, std::int64_t micro_batch, double clip_norm,
                    std::vector<float>& norms) {
    model::TrainableSet trained(*network_, {});
    std::vector<at::Tensor> parameters;
    for (const auto& parameter : trained.parameters()) parameters.push_back(parameter.tensor);
    ClippedSum sum(std::move(parameters), clip_norm);
    trained.attach(&sum);
    sum.begin_step();
    for (std::size_t first = 0; first < records.size(); first += static_cast<std::size_t>(micro_batch)) {
      const auto count = std::min<std::int64_t>(micro_batch, static_cast<std::int64_t>(records.size() - first));
      at::Tensor rows = torch::zeros({micro_batch * kDraws}, torch::kLong);
      for (std::int64_t row = 0; row < count * kDraws; ++row) {
        rows[row] = records[first + static_cast<std::size_t>(row / kDraws)] * kDraws + row % kDraws;
      }
      sum.begin_micro_batch(count, kDraws, micro_batch - count);
      const at::Tensor y =
          network_->forward(x_.index_select(0, rows), t_.index_select(0, rows), {{}, labels_.index_select(0, rows)});
      ((y - 1).pow(2).flatten(1).mean(1).sum() / static_cast<double>(kDraws)).backward();
      sum.finish_micro_batch();
      for (std::int64_t r = 0; r < count; ++r) norms.push_back(sum.last_norms()[r].item<float>());
    }
    trained.detach();
    return sum.values().clone();
  }

  std::unique_ptr<comm::Communicator> world_ = test::make_world_communicator();
  std::shared_ptr<model::UNet> network_;
  at::Tensor x_;
  at::Tensor t_;
  at::Tensor labels_;
};

TEST_F(ClippedSumOnRanks, MicroBatchesAndRanksGiveTheSumOfOneRank) {
  for (const std::int64_t num_records : {kRecords, std::int64_t{2}, std::int64_t{0}}) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(num_records));
    for (std::int64_t i = 0; i < num_records; ++i) all[static_cast<std::size_t>(i)] = i;
    std::vector<float> norms;
    sum_of(all, kRecords, 1.0, norms);
    std::vector<float> sorted = norms;
    std::sort(sorted.begin(), sorted.end());
    const double clip_norm = sorted.empty() ? 1.0 : 0.999 * sorted[sorted.size() / 2];
    if (num_records == kRecords) {
      EXPECT_LT(sorted.front(), clip_norm);
      EXPECT_GT(sorted.back(), 1.5 * clip_norm);
    }
    const at::Tensor expected = sum_of(all, kRecords, clip_norm, norms);
    for (const Sharding sharding : {Sharding::kStatic, Sharding::kBalanced}) {
      const auto mine = share_of_rank(all, kRecords, world_->rank(), world_->size(), sharding);
      for (const std::int64_t micro_batch : {1, 3, 8}) {
        at::Tensor sum = sum_of(mine, micro_batch, clip_norm, norms);
        world_->all_reduce_sum(
            comm::host_buffer(std::span(sum.data_ptr<float>(), static_cast<std::size_t>(sum.numel()))));
        EXPECT_LE((sum - expected).norm().item<double>(), kTolerance * expected.norm().item<double>())
            << num_records << " records in micro-batches of " << micro_batch;
      }
    }
  }
}

}  // namespace
}  // namespace dpldm::dp
