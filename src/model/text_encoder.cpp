#include "model/text_encoder.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"

namespace dpldm::model {

std::shared_ptr<TextEncoder> make_text_encoder(const nlohmann::json& config) {
  const auto architectures = config.find("architectures");
  nlohmann::json name = config.value("_class_name", nlohmann::json());
  if (name.is_null() && architectures != config.end() && architectures->is_array() && !architectures->empty()) {
    name = architectures->front();
  }
  const nlohmann::json type = config.value("model_type", nlohmann::json());
  if (name == "LDMBertModel" || (name.is_null() && type == "ldmbert")) {
    return std::make_shared<LdmBert>(LdmBertConfig::from_json(config));
  }
  if (name == "CLIPTextModel" || name == "CLIPModel" || (name.is_null() && type == "clip_text_model")) {
    return std::make_shared<ClipTextModel>(ClipTextConfig::from_json(config));
  }
  throw ConfigError(fmt::format("a text encoder's config.json says {}; CLIPTextModel and LDMBertModel are supported",
                                name.is_null() ? type.dump() : name.dump()));
}

}  // namespace dpldm::model
