#include <functional>

#include "base/error.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler_config.h"
#include "fuzz_targets.h"
#include "io/json_file.h"
#include "memory_file.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/unet_config.h"
#include "model/vq_model.h"
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

// What is read can be written, and read again.
template <typename Config>
void network_config(const nlohmann::json& json) {
  nlohmann::json written;
  refused_or([&] { written = Config::from_json(json).to_json(); });
  if (!written.is_null()) Config::from_json(written);
}

}  // namespace

void config_json(std::string_view input) {
  const MemoryFile file(input);
  nlohmann::json json;
  refused_or([&] { json = io::read_json_file(file.path()); });
  if (json.is_null()) return;
  network_config<model::UNetConfig>(json);
  network_config<model::AutoencoderConfig>(json);
  network_config<model::VQConfig>(json);
  network_config<model::ClipTextConfig>(json);
  network_config<model::LdmBertConfig>(json);
  network_config<diffusion::ScheduleConfig>(json);
  for (const auto kind : {diffusion::SamplerKind::kDdim, diffusion::SamplerKind::kDpmSolver}) {
    refused_or([&] { diffusion::sampling_timesteps(diffusion::SamplerConfig::from_json(kind, json), 1000); });
  }
  refused_or([&] { text::make_tokenizer(text::tokenizer_from_json(json), 16)->encode("a photo of the cat's 3 hats"); });
}

}  // namespace dpldm::fuzz
