#include "model/trainable_set.h"

#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <regex>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/modules/batchnorm.h>

#include "base/error.h"
#include "model/text_encoder.h"

namespace dpldm::model {
namespace {

using Predicate = std::function<bool(const std::string& name)>;

constexpr const char* kFromModule = "attention@>=";

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// "down_blocks.0.attentions.1" of "down_blocks.0.attentions.1.norm.weight"; empty outside attention modules.
std::string attention_module_of(const std::string& name) {
  static const std::string kPart = ".attentions.";
  const std::size_t at = name.find(kPart);
  return at == std::string::npos ? "" : name.substr(0, name.find('.', at + kPart.size()));
}

bool is_projection(const std::string& name) {
  static const std::regex kProjection(
      R"(\.attentions\.\d+\.(transformer_blocks\.\d+\.attn[12]\.)?to_(q|k|v|out\.0)\.)");
  return std::regex_search(name, kProjection);
}

bool is_dead_under_one_token(const std::string& name) {
  return contains(name, ".attn2.to_q.") || contains(name, ".attn2.to_k.") ||
         (contains(name, ".transformer_blocks.") && contains(name, ".norm2."));
}

const std::map<std::string, Predicate>& fixed_selectors() {
  static const std::map<std::string, Predicate> kSelectors{
      {"attention", [](const std::string& name) { return !attention_module_of(name).empty(); }},
      {"attention-core", is_projection},
      {"cross-attention", [](const std::string& name) { return contains(name, ".attn2."); }},
      {"cross-kv",
       [](const std::string& name) { return contains(name, ".attn2.to_k.") || contains(name, ".attn2.to_v."); }},
      {"resnets", [](const std::string& name) { return contains(name, ".resnets."); }},
      {"all", [](const std::string&) { return true; }},
      {"none", [](const std::string&) { return false; }}};
  return kSelectors;
}

// "attention@>=N": attention modules are numbered as their parameters are met, which is the order of execution.
Predicate from_module(const std::string& number) {
  int first = 0;
  const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), first);
  if (failure != std::errc() || end != number.data() + number.size() || first < 1) {
    throw ConfigError(fmt::format("trainable set '{}{}': N must be a whole number from 1", kFromModule, number));
  }
  return [first, seen = std::set<std::string>()](const std::string& name) mutable {
    const std::string module = attention_module_of(name);
    if (module.empty()) return false;
    seen.insert(module);
    return static_cast<int>(seen.size()) >= first;
  };
}

Predicate low_rank_factors(const std::string& frozen) {
  if (frozen != "none" && frozen != "A" && frozen != "B") {
    throw ConfigError("the frozen factor of low-rank pairs is '" + frozen + "'; it must be none, A or B");
  }
  return [frozen](const std::string& name) {
    return (frozen != "A" && contains(name, ".lora_A.")) || (frozen != "B" && contains(name, ".lora_B."));
  };
}

Predicate selector_of(const TrainableOptions& options) {
  const std::string& select = options.select;
  if (select == "lora") return low_rank_factors(options.frozen_factor);
  if (select.starts_with(kFromModule)) return from_module(select.substr(std::string(kFromModule).size()));
  const auto found = fixed_selectors().find(select);
  if (found == fixed_selectors().end()) {
    throw ConfigError(fmt::format("unknown trainable set '{}'; there are {}, lora, none and {}N", select,
                                  fmt::join(named_selectors(), ", "), kFromModule));
  }
  return found->second;
}

// What a regular expression finds; nothing when it is empty. Remembers whether it found anything.
class Expression {
 public:
  explicit Expression(const std::string& pattern) : pattern_(pattern) {
    try {
      if (!pattern.empty()) expression_.emplace(pattern);
    } catch (const std::regex_error& error) {
      throw ConfigError(fmt::format("'{}' is not a regular expression: {}", pattern, error.what()));
    }
  }

  bool finds(const std::string& name) {
    const bool found = expression_ && std::regex_search(name, *expression_);
    has_found_ = has_found_ || found;
    return found;
  }
  void require_found(const std::string& option) const {
    if (expression_ && !has_found_) {
      throw ConfigError(fmt::format("{} '{}' finds no parameter of this network", option, pattern_));
    }
  }

 private:
  std::string pattern_;
  std::optional<std::regex> expression_;
  bool has_found_ = false;
};

using Owners = std::map<std::string, Layer*>;

// Adds the layer that owns each parameter, by the parameter's name with `prefix` in front.
void add_owners(const torch::nn::Module& network, const std::string& prefix, Owners& owners) {
  for (const auto& module : network.named_modules("", false)) {
    auto* layer = dynamic_cast<Layer*>(module.value().get());
    if (layer == nullptr) continue;
    for (const char* parameter : {"weight", "bias"}) owners[prefix + module.key() + "." + parameter] = layer;
  }
}

std::string text_prefix(const UNet& network) { return network.text_encoder()->component() + "."; }

Owners owners_in(const UNet& network) {
  Owners owners;
  add_owners(network, "", owners);
  if (network.text_encoder()) add_owners(*network.text_encoder(), text_prefix(network), owners);
  return owners;
}

// Batch norm takes its statistics over records: even a frozen one would let a record move another's gradient.
void require_no_batch_norm(const torch::nn::Module& network) {
  for (const auto& module : network.named_modules("", false)) {
    const torch::nn::Module* found = module.value().get();
    if (dynamic_cast<const torch::nn::BatchNorm1dImpl*>(found) == nullptr &&
        dynamic_cast<const torch::nn::BatchNorm2dImpl*>(found) == nullptr &&
        dynamic_cast<const torch::nn::BatchNorm3dImpl*>(found) == nullptr) {
      continue;
    }
    throw ConfigError("'" + module.key() + "' is a batch norm, which mixes records; per-record gradients do not exist");
  }
}

// All names of each parameter.
std::map<const void*, std::vector<std::string>> names_of_tensors(
    const std::vector<std::pair<std::string, at::Tensor>>& parameters) {
  std::map<const void*, std::vector<std::string>> names;
  for (const auto& [name, tensor] : parameters) names[tensor.unsafeGetTensorImpl()].push_back(name);
  return names;
}

// What makes the condition of a network: its class embeddings in either form, the context's projection, the text
// encoder.
bool is_conditioner(const UNet& network, const std::string& name) {
  return name.starts_with("encoder_hid_proj.") || name.starts_with("class_embedding.") ||
         (network.text_encoder() && name.starts_with(text_prefix(network)));
}

}  // namespace

const std::vector<std::string>& named_selectors() {
  static const std::vector<std::string> kNames{"attention", "attention-core", "cross-attention",
                                               "cross-kv",  "resnets",        "all"};
  return kNames;
}

TrainableSet::TrainableSet(UNet& network, const TrainableOptions& options) : network_(network) {
  const Predicate selected = selector_of(options);
  Expression included(options.include);
  Expression excluded(options.exclude);
  const bool one_token = network.class_embedder() != nullptr;
  require_no_batch_norm(network);
  if (network.text_encoder()) require_no_batch_norm(*network.text_encoder());
  const auto all = network_parameters();
  const auto names = names_of_tensors(all);
  const auto owners = owners_in(network);
  bool is_found = options.select == "none";
  for (const auto& [name, tensor] : all) {
    num_network_elements_ += tensor.numel();
    const bool by_selector = selected(name);  // asked for every name, since it may count
    is_found = is_found || by_selector;
    bool train = is_conditioner(network, name) ? options.conditioner : by_selector;
    if (one_token && options.freeze_dead_cross_attention && is_dead_under_one_token(name)) train = false;
    const bool by_name = included.finds(name);  // both asked for every name, to know what they find
    const bool not_by_name = excluded.finds(name);
    if ((!train && !by_name) || not_by_name) continue;
    const auto owner = owners.find(name);
    if (owner == owners.end())
      throw ConfigError("parameter '" + name + "' cannot be trained with per-record gradients");
    const auto& same = names.at(tensor.unsafeGetTensorImpl());
    if (same.size() > 1) {
      throw ConfigError(fmt::format("parameter '{}' is shared: it is {} too; shared parameters have no per-record rule",
                                    name, same[0] == name ? same[1] : same[0]));
    }
    const bool is_weight = tensor.is_same(owner->second->weight);
    parameters_.push_back({name, owner->second, is_weight, tensor, num_elements_});
    num_elements_ += tensor.numel();
  }
  included.require_found("trained.include");
  excluded.require_found("trained.exclude");
  // What makes the condition would else be trained alone, under the name of a set that has nothing.
  if (parameters_.empty() || !is_found) {
    throw ConfigError(fmt::format("the trainable set '{}' is empty in this network", options.select));
  }
}

std::vector<std::pair<std::string, at::Tensor>> TrainableSet::network_parameters() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const auto& parameter : network_.named_parameters()) all.emplace_back(parameter.key(), parameter.value());
  if (network_.text_encoder()) {
    for (const auto& parameter : network_.text_encoder()->named_parameters()) {
      if (!network_.text_encoder()->uses(parameter.key())) continue;
      all.emplace_back(text_prefix(network_) + parameter.key(), parameter.value());
    }
  }
  return all;
}

void TrainableSet::attach(GradientTap* tap) {
  for (auto& [name, parameter] : network_parameters()) parameter.requires_grad_(false);
  struct Trained {
    std::string name;
    bool weight = false;
    bool bias = false;
  };
  std::map<Layer*, Trained> layers;
  for (const TrainedParameter& parameter : parameters_) {
    at::Tensor(parameter.tensor).requires_grad_(true);
    Trained& trained = layers[parameter.layer];
    trained.name = parameter.name.substr(0, parameter.name.rfind('.'));
    (parameter.is_weight ? trained.weight : trained.bias) = true;
  }
  for (const auto& [layer, trained] : layers) layer->attach(tap, trained.name, trained.weight, trained.bias);
}

void TrainableSet::detach() {
  for (const TrainedParameter& parameter : parameters_) parameter.layer->detach_tap();
  for (auto& [name, parameter] : network_parameters()) parameter.requires_grad_(true);
}

}  // namespace dpldm::model
