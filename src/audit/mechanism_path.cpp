#include "audit/mechanism_path.h"

#include <algorithm>
#include <cmath>

#include "base/torch.h"

namespace dpldm::audit {
namespace {

constexpr double kMagnitude = 1000;  // in clip norms
// The first is longer than the bias's 1, the second shorter.
constexpr std::array kWeightHeavy{6.0F, -2.0F, 3.0F};
constexpr std::array kBiasHeavy{0.06F, -0.02F, 0.03F};

const std::array<float, 3>& input_of(std::int64_t record) { return record % 2 == 0 ? kWeightHeavy : kBiasHeavy; }

class RealPath : public MechanismPath {
 public:
  RealPath(comm::Communicator& comm, const MadeUpRecords& records, accounting::PrivacyLedger* ledger,
           const PathOptions& options)
      : comm_(comm),
        records_(records),
        ledger_(ledger),
        options_(options),
        weight_(at::zeros({records.num_records(), MadeUpRecords::kInputs})),
        bias_(at::zeros({records.num_records()})),
        clipped_({weight_, bias_}, /*clip_norm=*/1.0, options.rule),
        mechanism_(comm, dp::RunKeys::create(comm, options.test_seed).take_noise(), options.noise_multiplier,
                   options.lattice ? static_cast<double>(dp::LatticeSum::kGridSteps) : 1.0, options.mode),
        attempt_(ledger == nullptr ? 0 : ledger->next_attempt()) {
    if (options.lattice) lattice_.emplace(records.num_elements(), records.num_records());
  }

  std::vector<float> release(std::int64_t step, const std::vector<std::int64_t>& present) override {
    const std::vector<std::int64_t> mine =
        dp::share_of_rank(present, records_.num_records(), comm_.rank(), comm_.size(), options_.sharding);
    clipped_.begin_step();
    if (lattice_) lattice_->begin_step();
    const std::size_t micro_batch = lattice_ ? 1 : 100;  // several, of unequal sizes
    for (std::size_t first = 0; first < mine.size(); first += micro_batch) {
      const auto records = std::span(mine).subspan(first, std::min(micro_batch, mine.size() - first));
      clipped_.begin_micro_batch(static_cast<std::int64_t>(records.size()), MadeUpRecords::kDraws);
      clipped_.report({"layer", model::LayerKind::kLinear, weight_, bias_}, records_.activations(records),
                      records_.output_gradients(records), {});
      clipped_.finish_micro_batch();
      if (lattice_) {
        lattice_->add_record(clipped_.sum());
        clipped_.begin_step();
      }
    }
    accounting::LedgerEntry entry{step, attempt_, "step", {1.0, options_.noise_multiplier, 1}};
    dp::ChargedStep charge = dp::charge_step(comm_, ledger_, entry);
    if (lattice_) {
      mechanism_.release(lattice_->sum(), std::move(charge));
      lattice_->write(clipped_.sum());
    } else {
      mechanism_.release(clipped_.sum(), std::move(charge));
    }
    std::vector<float> average(clipped_.sum().begin(), clipped_.sum().end());
    for (float& value : average) value = static_cast<float>(value / options_.expected_batch_size);
    return average;
  }

 private:
  comm::Communicator& comm_;
  const MadeUpRecords& records_;
  accounting::PrivacyLedger* ledger_;
  PathOptions options_;
  at::Tensor weight_;
  at::Tensor bias_;
  dp::ClippedSum clipped_;
  dp::GaussianMechanism mechanism_;
  std::int64_t attempt_;
  std::optional<dp::LatticeSum> lattice_;
};

}  // namespace

at::Tensor MadeUpRecords::activations(std::span<const std::int64_t> records) const {
  at::Tensor inputs = at::empty({static_cast<std::int64_t>(records.size()), kInputs});
  for (std::size_t i = 0; i < records.size(); ++i) {
    std::copy_n(input_of(records[i]).begin(), kInputs, inputs[static_cast<std::int64_t>(i)].data_ptr<float>());
  }
  return inputs.repeat_interleave(kDraws, 0).unsqueeze(1).repeat({1, kTokens, 1});
}

at::Tensor MadeUpRecords::output_gradients(std::span<const std::int64_t> records) const {
  at::Tensor rows = at::zeros({static_cast<std::int64_t>(records.size()), num_records_});
  for (std::size_t i = 0; i < records.size(); ++i) {
    // The record's loss is the mean over its draws.
    rows[static_cast<std::int64_t>(i)][records[i]] = static_cast<float>(kMagnitude / kDraws);
  }
  return rows.repeat_interleave(kDraws, 0).unsqueeze(1).repeat({1, kTokens, 1});
}

std::array<float, MadeUpRecords::kBlock> MadeUpRecords::direction(std::int64_t record) const {
  const auto& input = input_of(record);
  const double norm = std::sqrt(1.0 + static_cast<double>(input[0]) * input[0] +
                                static_cast<double>(input[1]) * input[1] + static_cast<double>(input[2]) * input[2]);
  std::array<float, kBlock> unit{input[0], input[1], input[2], 1.0F};
  for (float& value : unit) value = static_cast<float>(value / norm);
  return unit;
}

std::array<std::size_t, MadeUpRecords::kBlock> MadeUpRecords::places(std::int64_t record) const {
  const auto row = static_cast<std::size_t>(record * kInputs);
  return {row, row + 1, row + 2, static_cast<std::size_t>(num_records_ * kInputs + record)};
}

std::unique_ptr<MechanismPath> make_real_path(comm::Communicator& comm, const MadeUpRecords& records,
                                              accounting::PrivacyLedger* ledger, const PathOptions& options) {
  return std::make_unique<RealPath>(comm, records, ledger, options);
}

}  // namespace dpldm::audit
