#include "diffusion/training_objective.h"

#include <gtest/gtest.h>

#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

TEST(PerRecordMeanSquaredError, EachRecord_IsAveragedOnItsOwn) {
  const at::Tensor target = torch::zeros({2, 2, 3, 4});
  at::Tensor prediction = torch::zeros({2, 2, 3, 4});
  prediction[0].fill_(2);
  prediction[1][0][0][0] = 12;
  const at::Tensor loss = per_record_mean_squared_error(prediction, target);
  EXPECT_TRUE(torch::equal(loss, torch::tensor({4.0F, 6.0F})));
}

TEST(PerRecordMeanSquaredError, Bf16Prediction_IsSquaredInFp32) {
  const at::Tensor prediction = torch::full({1, 1, 2, 2}, 1.0, torch::kBFloat16);
  const at::Tensor target = torch::full({1, 1, 2, 2}, 1.001F);
  const at::Tensor loss = per_record_mean_squared_error(prediction, target);
  EXPECT_EQ(loss.scalar_type(), torch::kFloat);
  EXPECT_NEAR(loss[0].item<float>(), 1e-6, 1e-8);
}

}  // namespace
}  // namespace dpldm::diffusion
