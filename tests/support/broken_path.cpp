#include "support/broken_path.h"

#include <algorithm>
#include <cmath>

#include "base/torch.h"
#include "dp/keystream.h"

namespace dpldm::test {
namespace {

using audit::MadeUpRecords;

class BrokenPath : public audit::MechanismPath {
 public:
  BrokenPath(Fault fault, comm::Communicator& comm, const MadeUpRecords& records, accounting::PrivacyLedger* ledger,
             const audit::PathOptions& options)
      : fault_(fault), comm_(comm), records_(records), ledger_(ledger), options_(options) {}

  std::vector<float> release(std::int64_t step, const std::vector<std::int64_t>& present) override {
    std::vector<float> sum(records_.num_elements());
    for (const std::int64_t record : share(present)) add_record(record, sum);
    add_noise(step, sum);
    const double divisor = fault_ == Fault::kActualBatchSize ? std::max(1.0, static_cast<double>(present.size()))
                                                             : options_.expected_batch_size;
    for (float& value : sum) value = static_cast<float>(value / divisor);
    return sum;
  }

 private:
  std::vector<std::int64_t> share(const std::vector<std::int64_t>& present) const {
    std::vector<std::int64_t> mine =
        dp::share_of_rank(present, records_.num_records(), comm_.rank(), comm_.size(), dp::Sharding::kStatic);
    if (fault_ == Fault::kRecordOnTwoRanks && comm_.rank() + 1 < comm_.size()) {
      const std::int64_t next = records_.num_records() * (comm_.rank() + 1) / comm_.size();
      if (std::binary_search(present.begin(), present.end(), next)) mine.push_back(next);
    }
    return mine;
  }

  // The record's gradient, from what the layer reports, and a factor that is right or wrong.
  void add_record(std::int64_t record, std::vector<float>& sum) const {
    const std::vector<std::int64_t> one{record};
    const at::Tensor a = records_.activations(one);
    const at::Tensor g = records_.output_gradients(one);
    const auto places = records_.places(record);
    const bool apart = fault_ == Fault::kDrawsClippedApart;
    // [draws or 1, kInputs + 1]: gradients of weight row and bias, per draw or summed over them.
    const at::Tensor row = g.select(2, record);
    at::Tensor gradient = at::cat({(a * row.unsqueeze(2)).sum(1), row.sum(1, /*keepdim=*/true)}, 1);
    if (!apart) gradient = gradient.sum(0, /*keepdim=*/true);
    at::Tensor norms = gradient.norm(2, 1, true);
    if (fault_ == Fault::kBiasNormLeftOut) norms = gradient.narrow(1, 0, MadeUpRecords::kInputs).norm(2, 1, true);
    if (fault_ != Fault::kNoClip) gradient = gradient / norms.clamp_min(1);
    const at::Tensor total = gradient.sum(0);
    for (std::size_t i = 0; i < places.size(); ++i) {
      sum[places[i]] += total[static_cast<std::int64_t>(i)].item<float>();
    }
  }

  void add_noise(std::int64_t step, std::vector<float>& sum) {
    if (fault_ == Fault::kNoiseOnEachRank || fault_ == Fault::kNoiseOverRanks) {
      const dp::SecretKey key =
          dp::MasterKey::from_test_seed(100 + static_cast<std::uint64_t>(comm_.rank())).derive({}, "noise");
      const double scale = fault_ == Fault::kNoiseOverRanks ? 1.0 / comm_.size() : 1.0;
      std::vector<float> noise(sum.size());
      dp::Keystream(key, static_cast<std::uint64_t>(step)).gaussians(0, noise, scale * options_.noise_multiplier);
      std::transform(sum.begin(), sum.end(), noise.begin(), sum.begin(), std::plus<>());
      comm_.all_reduce_sum(comm::host_buffer(std::span(sum)));
      return;
    }
    // The real mechanism; replayed noise is what a restart with the same key and step gives.
    const bool replayed = fault_ == Fault::kReplayedNoise;
    const double sigma = options_.noise_multiplier * (fault_ == Fault::kLessNoise ? 0.95 : 1.0);
    const std::uint64_t seed = replayed ? 1 : 1 + static_cast<std::uint64_t>(step);
    dp::GaussianMechanism mechanism(comm_, dp::RunKeys::create(comm_, seed).take_noise(), sigma, 1.0, options_.mode);
    const std::int64_t attempt = ledger_ == nullptr ? 0 : ledger_->next_attempt();
    mechanism.release(sum, dp::charge_step(comm_, ledger_, {replayed ? 0 : step, attempt, "step", {1.0, sigma, 1}}));
  }

  Fault fault_;
  comm::Communicator& comm_;
  const MadeUpRecords& records_;
  accounting::PrivacyLedger* ledger_;
  audit::PathOptions options_;
};

}  // namespace

std::unique_ptr<audit::MechanismPath> make_broken_path(Fault fault, comm::Communicator& comm,
                                                       const audit::MadeUpRecords& records,
                                                       accounting::PrivacyLedger* ledger,
                                                       const audit::PathOptions& options) {
  return std::make_unique<BrokenPath>(fault, comm, records, ledger, options);
}

}  // namespace dpldm::test
