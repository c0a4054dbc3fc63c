#include "compvis/first_stage_names.h"

#include <fmt/format.h>

namespace dpldm::compvis {
namespace {

using Found = std::optional<Destination>;

// The layer inside a resnet block or an attention, with ".weight" or ".bias".
Found inside(const std::string& place, bool attention, const Path& path, std::size_t first) {
  if (path.size() != first + 2) return std::nullopt;
  const std::string_view layer = path[first];
  std::string name;
  if (attention) {
    if (layer == "norm") name = "group_norm";
    if (layer == "q" || layer == "k" || layer == "v") name = "to_" + std::string(layer);
    if (layer == "proj_out") name = "to_out.0";
  } else {
    if (layer == "norm1" || layer == "norm2" || layer == "conv1" || layer == "conv2") name = layer;
    if (layer == "nin_shortcut") name = "conv_shortcut";
  }
  if (name.empty()) return std::nullopt;
  return Destination{fmt::format("{}.{}.{}", place, name, path[first + 1])};
}

Found middle(const std::string& coder, const Path& path) {
  if (path.size() < 3) return std::nullopt;
  if (path[2] == "block_1") return inside(coder + ".mid_block.resnets.0", false, path, 3);
  if (path[2] == "attn_1") return inside(coder + ".mid_block.attentions.0", true, path, 3);
  if (path[2] == "block_2") return inside(coder + ".mid_block.resnets.1", false, path, 3);
  return std::nullopt;
}

// encoder.down.i or decoder.up.i. The decoder counts its levels from the finest, diffusers from the deepest.
Found level(const std::string& coder, const Path& path, std::int64_t num_levels) {
  const bool down = path[1] == "down";
  const auto number = number_at(path, 2);
  if (!number || *number >= num_levels || path.size() < 5) return std::nullopt;
  const std::string place = fmt::format("{}.{}_blocks.{}", coder, path[1], down ? *number : num_levels - 1 - *number);
  if (path[3] == (down ? "downsample" : "upsample") && path[4] == "conv") {
    return Destination{fmt::format("{}.{}samplers.0.{}", place, path[1], joined(path, 4))};
  }
  const auto layer = number_at(path, 4);
  if (!layer) return std::nullopt;
  if (path[3] == "block") return inside(fmt::format("{}.resnets.{}", place, *layer), false, path, 5);
  if (path[3] == "attn") return inside(fmt::format("{}.attentions.{}", place, *layer), true, path, 5);
  return std::nullopt;
}

}  // namespace

Found first_stage_destination(std::string_view name, std::int64_t num_levels) {
  const Path path = split_name(name);
  if (path[0] == "quant_conv" || path[0] == "post_quant_conv" || name == "quantize.embedding.weight") {
    return Destination{std::string(name)};
  }
  const bool encoder = path[0] == "encoder";
  if ((!encoder && path[0] != "decoder") || path.size() < 3) return std::nullopt;
  const std::string coder(path[0]);
  if (path[1] == "conv_in" || path[1] == "conv_out") return Destination{std::string(name)};
  if (path[1] == "norm_out") return Destination{coder + ".conv_norm_out." + joined(path, 2)};
  if (path[1] == "mid") return middle(coder, path);
  if (path[1] == (encoder ? "down" : "up")) return level(coder, path, num_levels);
  return std::nullopt;
}

bool is_first_stage_loss(std::string_view name) { return name.starts_with("loss."); }

}  // namespace dpldm::compvis
