#include "compvis/unet_names.h"

#include <array>
#include <utility>

#include <fmt/format.h>

namespace dpldm::compvis {
namespace {

using Renaming = std::pair<std::string_view, std::string_view>;

constexpr std::array<Renaming, 6> kResnetNames{{{"in_layers.0", "norm1"},
                                                {"in_layers.2", "conv1"},
                                                {"emb_layers.1", "time_emb_proj"},
                                                {"out_layers.0", "norm2"},
                                                {"out_layers.3", "conv2"},
                                                {"skip_connection", "conv_shortcut"}}};
constexpr std::array<Renaming, 8> kOuterNames{{{"time_embed.0", "time_embedding.linear_1"},
                                               {"time_embed.2", "time_embedding.linear_2"},
                                               {"label_emb.0.0", "class_embedding.linear_1"},
                                               {"label_emb.0.2", "class_embedding.linear_2"},
                                               {"label_emb", "class_embedding"},
                                               {"input_blocks.0.0", "conv_in"},
                                               {"out.0", "conv_norm_out"},
                                               {"out.2", "conv_out"}}};

// `rest` with its beginning renamed, when that is one of `names` followed by a dot.
template <std::size_t n>
std::optional<std::string> renamed(const std::array<Renaming, n>& names, std::string_view rest) {
  for (const auto& [from, to] : names) {
    if (rest.starts_with(from) && rest.size() > from.size() && rest[from.size()] == '.') {
      return std::string(to) + std::string(rest.substr(from.size()));
    }
  }
  return std::nullopt;
}

class UNetNames {
 public:
  UNetNames(const model::UNetConfig& config, bool new_attention_order)
      : config_(config), new_attention_order_(new_attention_order), layers_(config.layers_at(0)) {}

  std::optional<Destination> find(std::string_view name) const {
    if (auto outer = renamed(kOuterNames, name)) return Destination{*outer};
    const Path path = split_name(name);
    if (path[0] == "middle_block") return middle(path);
    const auto block = number_at(path, 1);
    const auto child = number_at(path, 2);
    if (!block || !child) return std::nullopt;
    if (path[0] == "input_blocks") return down(*block, *child, joined(path, 3));
    if (path[0] == "output_blocks") return up(*block, *child, joined(path, 3));
    return std::nullopt;
  }

 private:
  static std::optional<Destination> resnet(const std::string& place, const std::string& rest) {
    const auto name = renamed(kResnetNames, rest);
    return name ? std::optional(Destination{place + "." + *name}) : std::nullopt;
  }

  std::optional<Destination> attention(const std::string& place, std::int64_t level, const std::string& rest) const {
    if (config_.family == model::UNetFamily::kConditional) return Destination{place + "." + rest};  // the same names
    constexpr std::array<Renaming, 2> kNames{{{"norm", "group_norm"}, {"proj_out", "to_out.0"}}};
    if (rest.starts_with("qkv.")) {
      return Destination{place + ".to_{}" + rest.substr(3),
                         new_attention_order_ ? Change::kThirds : Change::kHeadsOfThirds, config_.heads_at(level)};
    }
    const auto name = renamed(kNames, rest);
    return name ? std::optional(Destination{place + "." + *name}) : std::nullopt;
  }

  std::optional<Destination> middle(const Path& path) const {
    const auto child = number_at(path, 1);
    const std::string rest = joined(path, 2);
    if (child == 0) return resnet("mid_block.resnets.0", rest);
    if (child == 1) return attention("mid_block.attentions.0", config_.num_levels() - 1, rest);
    if (child == 2) return resnet("mid_block.resnets.1", rest);
    return std::nullopt;
  }

  // Block 0 is the first convolution. Then each level has its layers and, but for the last, a downsampler.
  std::optional<Destination> down(std::int64_t block, std::int64_t child, const std::string& rest) const {
    if (block < 1) return std::nullopt;
    const std::int64_t level = (block - 1) / (layers_ + 1);
    const std::int64_t layer = (block - 1) % (layers_ + 1);
    if (level >= config_.num_levels()) return std::nullopt;
    const std::string place = fmt::format("down_blocks.{}.", level);
    if (layer == layers_) {
      if (child != 0 || level + 1 == config_.num_levels()) return std::nullopt;
      if (rest.starts_with("op.")) return Destination{place + "downsamplers.0.conv" + rest.substr(2)};
      return resnet(place + "downsamplers.0", rest);
    }
    if (child == 0) return resnet(fmt::format("{}resnets.{}", place, layer), rest);
    if (child == 1) return attention(fmt::format("{}attentions.{}", place, layer), level, rest);
    return std::nullopt;
  }

  // Deepest level first. The upsampler is the child after the attention, where there is one: it shows by its content.
  std::optional<Destination> up(std::int64_t block, std::int64_t child, const std::string& rest) const {
    const std::int64_t level = block / (layers_ + 1);
    const std::int64_t layer = block % (layers_ + 1);
    if (level >= config_.num_levels()) return std::nullopt;
    const std::string place = fmt::format("up_blocks.{}.", level);
    if (child == 0) return resnet(fmt::format("{}resnets.{}", place, layer), rest);
    if (child > 2) return std::nullopt;
    if (rest.starts_with("conv.")) return Destination{place + "upsamplers.0." + rest};
    if (auto upsampler = resnet(place + "upsamplers.0", rest)) return upsampler;
    return attention(fmt::format("{}attentions.{}", place, layer), config_.num_levels() - 1 - level, rest);
  }

  const model::UNetConfig& config_;
  bool new_attention_order_;
  std::int64_t layers_;
};

}  // namespace

std::optional<Destination> unet_destination(std::string_view name, const model::UNetConfig& config,
                                            bool new_attention_order) {
  return UNetNames(config, new_attention_order).find(name);
}

}  // namespace dpldm::compvis
