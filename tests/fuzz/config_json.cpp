#include <functional>

#include "base/error.h"
#include "diffusion/sampler_config.h"
#include "fuzz_targets.h"
#include "io/json_file.h"
#include "memory_file.h"
#include "model/unet_config.h"
#include "text/tokenizer.h"

namespace dpldm::fuzz {
namespace {

void refused_or(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error&) {
    // Refused.
  }
}

}  // namespace

void config_json(std::string_view input) {
  const MemoryFile file(input);
  nlohmann::json json;
  refused_or([&] { json = io::read_json_file(file.path()); });
  if (json.is_null()) return;
  refused_or([&] {
    const model::UNetConfig config = model::UNetConfig::from_json(json);
    model::UNetConfig::from_json(config.to_json());
  });
  for (const auto kind : {diffusion::SamplerKind::kDdim, diffusion::SamplerKind::kDpmSolver}) {
    refused_or([&] { diffusion::sampling_timesteps(diffusion::SamplerConfig::from_json(kind, json), 1000); });
  }
  refused_or([&] { text::make_tokenizer(text::tokenizer_from_json(json), 16)->encode("a photo of the cat's 3 hats"); });
}

}  // namespace dpldm::fuzz
