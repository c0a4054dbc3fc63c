// Records per second of CPU time of the networks of the quickstart's size, forward and backward. CPU time, so that
// other work on the machine disturbs little; the figures mean one thread.
//
//   OMP_NUM_THREADS=1 perf_network_speed unet|autoencoder [batch] [seconds] [profile]
//
// With "profile": where the time of bf16 training goes, by operator.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include <ATen/record_function.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/torch.h"
#include "model/autoencoder_kl.h"
#include "model/unet.h"
#include "support/small_networks.h"

namespace {

using dpldm::model::AutoencoderConfig;
using dpldm::model::AutoencoderKL;
using dpldm::model::UNet;
using dpldm::model::UNetConfig;

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Calls `step` for about `seconds` after a warm-up and returns records per second of CPU time.
template <typename Step>
double rate(std::int64_t batch, double seconds, const Step& step) {
  for (int i = 0; i < 3; ++i) step();
  const double start = cpu_seconds();
  std::int64_t records = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    step();
    records += batch;
    elapsed = cpu_seconds() - start;
  }
  return static_cast<double>(records) / elapsed;
}

// Time inside each operator without the operators that it calls.
class OperatorTimes {
 public:
  OperatorTimes() {
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&OperatorTimes::enter, &OperatorTimes::leave));
  }
  ~OperatorTimes() {
    at::removeCallback(handle_);
    std::vector<std::pair<double, std::string>> sorted;
    double total = 0;
    for (const auto& [name, spent] : spent_) {
      sorted.emplace_back(spent.seconds, fmt::format("{:<48}{:>8} calls", name, spent.calls));
      total += spent.seconds;
    }
    std::sort(sorted.rbegin(), sorted.rend());
    spent_.clear();
    for (std::size_t i = 0; i < std::min<std::size_t>(sorted.size(), 30); ++i) {
      fmt::print("    {:5.1f} %  {}\n", 100 * sorted[i].first / total, sorted[i].second);
    }
  }

 private:
  struct Spent {
    double seconds = 0;
    int calls = 0;
  };
  struct Frame : at::ObserverContext {
    double start = 0;
    double inner = 0;
    Frame* outer = nullptr;
  };
  static std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction&) {
    auto frame = std::make_unique<Frame>();
    frame->start = cpu_seconds();
    frame->outer = innermost_;
    innermost_ = frame.get();
    return frame;
  }
  static void leave(const at::RecordFunction& function, at::ObserverContext* context) {
    auto* frame = static_cast<Frame*>(context);
    const double elapsed = cpu_seconds() - frame->start;
    Spent& spent = spent_[function.name()];
    spent.seconds += elapsed - frame->inner;
    ++spent.calls;
    if (frame->outer != nullptr) frame->outer->inner += elapsed;
    innermost_ = frame->outer;
  }

  at::CallbackHandle handle_;
  inline static Frame* innermost_ = nullptr;
  inline static std::map<std::string, Spent> spent_;
};

std::int64_t num_parameters(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

void clear_gradients(torch::nn::Module& network) {
  for (auto& parameter : network.parameters()) parameter.mutable_grad().reset();
}

void measure_unet(std::int64_t layers_per_block, std::int64_t batch, double seconds, bool profile) {
  UNetConfig config = dpldm::test::quickstart_unet_config();
  config.layers_per_block = {layers_per_block};
  UNet unet(config);
  fmt::print("U-Net, {} layers per block, {} parameters\n", layers_per_block, num_parameters(unet));
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor sample = torch::randn({batch, 4, 7, 7}).to(dtype);
    const at::Tensor timestep = torch::randint(0, 1000, {batch});
    const at::Tensor labels = torch::randint(0, 11, {batch});
    const auto train = [&](bool all) {
      for (auto& named : unet.named_parameters()) {
        named.value().requires_grad_(all || named.key().find("attentions") != std::string::npos);
      }
      return rate(batch, seconds, [&] {
        unet.forward(sample, timestep, {{}, labels}).to(at::kFloat).square().mean().backward();
        clear_gradients(unet);
      });
    };
    const double everything = train(true);
    const double attention = train(false);
    const torch::NoGradGuard no_grad;
    const double forward = rate(batch, seconds, [&] { unet.forward(sample, timestep, {{}, labels}); });
    fmt::print("  {:<9} train all {:6.0f}/s   train attention {:6.0f}/s   forward {:6.0f}/s\n", c10::toString(dtype),
               everything, attention, forward);
    if (profile && dtype == at::kBFloat16) {
      const at::AutoGradMode with_gradients(true);
      const OperatorTimes times;
      train(false);
    }
  }
}

void measure_autoencoder(const std::vector<std::int64_t>& widths, bool mid_attention, std::int64_t batch,
                         double seconds, bool profile) {
  AutoencoderConfig config;
  config.in_channels = 1;
  config.out_channels = 1;
  config.block_out_channels = widths;
  config.down_block_types.assign(widths.size(), "DownEncoderBlock2D");
  config.up_block_types.assign(widths.size(), "UpDecoderBlock2D");
  config.norm_num_groups = 8;
  config.mid_block_add_attention = mid_attention;
  AutoencoderKL autoencoder(config);
  fmt::print("autoencoder, widths {}, {} mid attention, {} parameters\n", fmt::join(widths, " "),
             mid_attention ? "with" : "without", num_parameters(autoencoder));
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor images = torch::randn({batch, 1, 28, 28}).to(dtype);
    const auto train = [&] {
      const at::Tensor mean = autoencoder.encode(images).narrow(1, 0, config.latent_channels);
      autoencoder.decode(mean).to(at::kFloat).square().mean().backward();
      clear_gradients(autoencoder);
    };
    const double trained = rate(batch, seconds, train);
    double encoded = 0;
    {
      const torch::NoGradGuard no_grad;
      encoded = rate(batch, seconds, [&] { autoencoder.encode(images); });
    }
    fmt::print("  {:<9} train {:6.0f}/s   encode {:6.0f}/s\n", c10::toString(dtype), trained, encoded);
    if (profile && dtype == at::kBFloat16) {
      const OperatorTimes times;
      rate(batch, seconds, train);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "unet";
  const std::int64_t batch = argc > 2 ? std::atol(argv[2]) : 128;
  const double seconds = argc > 3 ? std::atof(argv[3]) : 5;
  const bool profile = argc > 4 && std::string(argv[4]) == "profile";
  torch::manual_seed(1);
  if (what == "unet") {
    for (const std::int64_t layers : {1, 2}) measure_unet(layers, batch, seconds, profile);
  } else if (what == "autoencoder") {
    for (const bool mid_attention : {true, false}) {
      measure_autoencoder({16, 32, 64}, mid_attention, batch, seconds, profile && !mid_attention);
    }
    measure_autoencoder({32, 64, 64}, false, batch, seconds, false);
  }
}
