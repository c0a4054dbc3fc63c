#include "compvis/import.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"
#include "compvis/first_stage_names.h"
#include "compvis/text_encoder_names.h"
#include "compvis/unet_names.h"
#include "io/torch_archive.h"
#include "model/model_weights.h"

namespace dpldm::compvis {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kUNetPrefix = "model.diffusion_model.";
constexpr std::string_view kEmaPrefix = "model_ema.";
constexpr std::string_view kFirstStagePrefix = "first_stage_model.";
constexpr std::string_view kConditionerPrefix = "cond_stage_model.";
constexpr const char* kClassTable = "encoder_hid_proj.weight";
constexpr const char* kOriginalClassTable = "cond_stage_model.embedding.weight";

// The parameters of one network as they come in.
class Collected {
 public:
  explicit Collected(std::shared_ptr<model::Network> network) : network_(std::move(network)) {
    for (const auto& parameter : network_->named_parameters())
      shapes_[parameter.key()] = parameter.value().sizes().vec();
  }

  // Throws ConfigError, before anything is read, when the tensor is not what the network needs.
  void take(const io::TorchArchive& archive, const std::string& source, const Destination& destination) {
    const io::PickledTensor& found = archive.tensors().at(source);
    if (destination.change == Change::kNone) {
      require_elements(source, found, destination.name, 1);
      tensors_[destination.name] = archive.read(source).reshape(shapes_.at(destination.name));
      return;
    }
    std::vector<std::string> names;
    for (const char* part : {"q", "k", "v"}) {
      names.push_back(fmt::format(fmt::runtime(destination.name), part));
      require_elements(source, found, names.back(), 3);
    }
    const at::Tensor all = archive.read(source);
    const at::Tensor parts =
        destination.change == Change::kThirds
            ? all.reshape({3, all.size(0) / 3, -1})
            : all.reshape({destination.num_heads, 3, all.size(0) / 3 / destination.num_heads, -1}).transpose(0, 1);
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::string& name = names[static_cast<std::size_t>(i)];
      tensors_[name] = parts[i].reshape(shapes_.at(name)).contiguous();
    }
  }

  void set(const std::string& name, at::Tensor tensor) { tensors_[name] = std::move(tensor); }

  // Strict both ways.
  void finish(const std::string& where) { model::adopt(*network_, std::move(tensors_), where); }

 private:
  void require_elements(const std::string& source, const io::PickledTensor& found, const std::string& name,
                        std::int64_t times) const {
    const auto expected = shapes_.find(name);
    if (expected == shapes_.end()) {
      throw ConfigError(fmt::format("the yaml's network has no place for the checkpoint's '{}' ({})", source, name));
    }
    std::vector<std::int64_t> shape = found.shape;
    while (shape.size() > expected->second.size() && shape.back() == 1) shape.pop_back();
    if (times > 1 && !shape.empty() && shape[0] % times == 0) shape[0] /= times;
    if (shape != expected->second) {
      throw ConfigError(fmt::format("the checkpoint's '{}' is [{}]; the yaml's network needs {} of [{}]", source,
                                    fmt::join(found.shape, ", "), times, fmt::join(expected->second, ", ")));
    }
  }

  std::shared_ptr<model::Network> network_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  model::Tensors tensors_;
};

// The name of a parameter in LitEma: without dots, which its buffers may not have.
std::string ema_name(std::string_view name) {
  std::string mangled(kEmaPrefix);
  for (const char c : name.substr(std::string_view("model.").size())) {
    if (c != '.') mangled += c;
  }
  return mangled;
}

// Numbers that follow from the yaml, and what training left behind.
bool is_by_product(std::string_view name) {
  for (const char* known : {"betas", "logvar", "lvlb_weights", "scale_factor", "global_step"}) {
    if (name == known) return true;
  }
  for (const char* prefix : {"alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "model_ema."}) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

class Import {
 public:
  explicit Import(const ImportRequest& request) : request_(request), archive_(request.checkpoint) {
    if (const std::string asked = archive_.what_it_asks_for(); !asked.empty()) {
      result_.facts.push_back(request.checkpoint.string() + " " + asked);
    }
    result_.config = read_compvis_config(request.config);
    result_.warnings = result_.config.notes;
  }

  ImportResult run() {
    prefix_ = config().unet ? std::string(kFirstStagePrefix) : "";
    set_scale();
    import_first_stage();
    if (config().unet) {
      check_schedule();
      import_unet();
      import_text_encoder();
      result_.scheduler = config().schedule.to_json();
      note_rest();
    }
    return std::move(result_);
  }

 private:
  CompVisConfig& config() { return result_.config; }

  // Calls `place` with each of the archive's names that begins with `prefix`, and with what follows.
  void for_each(std::string_view prefix, const std::function<void(const std::string&, std::string_view)>& place) const {
    for (const auto& [name, tensor] : archive_.tensors()) {
      if (name.starts_with(prefix)) place(name, std::string_view(name).substr(prefix.size()));
    }
  }

  [[noreturn]] static void refuse_unknown(const std::string& name) {
    throw ConfigError(fmt::format("the checkpoint's tensor '{}' belongs to no network that this program knows", name));
  }

  // The factor is a buffer of the checkpoint where training measured it, else the yaml's.
  void set_scale() {
    double factor = config().scale_factor;
    if (archive_.contains("scale_factor")) {
      const at::Tensor measured = archive_.read("scale_factor");
      if (measured.numel() != 1) {
        throw ConfigError(
            fmt::format("the checkpoint's scale_factor has {} elements; it must be one number", measured.numel()));
      }
      factor = measured.item<double>();
      result_.facts.push_back(fmt::format("scale factor {} (measured in training; the checkpoint holds it)", factor));
    } else if (config().unet) {
      result_.facts.push_back(fmt::format("scale factor {} (of the yaml)", factor));
      if (config().scale_by_std) {
        result_.warnings.push_back(
            "the yaml says scale_by_std, but the checkpoint holds no factor: it was trained without one");
      }
    }
    if (!(factor > 0 && factor < 1e6))
      throw ConfigError(fmt::format("the scale factor is {}; it must be positive", factor));
    if (config().kl) config().kl->scaling_factor = factor;
    if (config().vq) config().vq->scaling_factor = factor;
  }

  void import_first_stage() {
    std::shared_ptr<model::Autoencoder> network;
    {
      const model::ShapesOnly shapes_only;
      if (config().kl) network = std::make_shared<model::AutoencoderKL>(*config().kl);
      if (config().vq) network = std::make_shared<model::VQModel>(*config().vq);
    }
    if (!network) return;
    const auto num_levels = static_cast<std::int64_t>(network->config().block_out_channels.size());
    Collected collected(network);
    for_each(prefix_, [&](const std::string& name, std::string_view rest) {
      if (is_first_stage_loss(rest)) return;
      const auto destination = first_stage_destination(rest, num_levels);
      if (destination) {
        collected.take(archive_, name, *destination);
      } else if (!prefix_.empty() || !is_by_product(rest)) {
        refuse_unknown(name);
      }
    });
    collected.finish("first stage");
    result_.networks.autoencoder = network;
  }

  // Whether the checkpoint has a table of this name that is another one, up to rounding.
  bool has_other(const std::string& name, const at::Tensor& expected, double tolerance) const {
    if (!archive_.contains(name)) return false;
    const io::PickledTensor& found = archive_.tensors().at(name);
    if (found.shape != expected.sizes().vec()) return true;
    // Copies of checkpoints in 16 bits have these tables in 16 bits too.
    if (c10::elementSize(found.dtype) < sizeof(float)) tolerance = 0.01;
    return !at::allclose(archive_.read(name).to(at::kFloat), expected, tolerance, 1e-6);
  }

  // Cheap, and catches a yaml of another model.
  void check_schedule() {
    const diffusion::NoiseSchedule schedule(config().schedule);
    std::vector<double> betas;
    for (std::int64_t t = 0; t < config().schedule.num_train_timesteps; ++t) {
      betas.push_back(1 - schedule.alpha_cumprod(t) / (t > 0 ? schedule.alpha_cumprod(t - 1) : 1));
    }
    if (has_other("betas", torch::tensor(betas, at::kFloat), 0) ||
        has_other("alphas_cumprod", schedule.alphas_cumprod(), 1e-4)) {
      throw ConfigError("the yaml's noise schedule is not the checkpoint's: it is another model's yaml");
    }
  }

  void import_unet() {
    model::UNetConfig& unet = *config().unet;
    at::Tensor table;
    if (config().conditioner == Conditioner::kClassTable) {
      table = class_table();
      unet.num_classes = table.size(0);
    }
    std::shared_ptr<model::UNet> network;
    {
      const model::ShapesOnly shapes_only;
      network = std::make_shared<model::UNet>(unet);
    }
    Collected collected(network);
    std::int64_t num_averaged = 0;
    std::int64_t num_raw = 0;
    for_each(kUNetPrefix, [&](const std::string& name, std::string_view rest) {
      const auto destination = unet_destination(rest, unet, config().new_attention_order);
      if (!destination) refuse_unknown(name);
      const std::string averaged = ema_name(name);
      const bool use_average = request_.use_ema && archive_.contains(averaged);
      collected.take(archive_, use_average ? averaged : name, *destination);
      ++(use_average ? num_averaged : num_raw);
    });
    if (table.defined()) collected.set(kClassTable, table);
    collected.finish("U-Net");
    result_.networks.unet = network;
    result_.facts.push_back(
        fmt::format("U-Net weights: {} tensors of the running average, {} raw", num_averaged, num_raw));
    if (request_.use_ema) warn_of_other_averages(num_averaged);
  }

  // Averages under names that are no parameter's: raw weights were taken in their place.
  void warn_of_other_averages(std::int64_t num_taken) {
    std::int64_t num_averages = 0;
    for_each(kEmaPrefix, [&](const std::string&, std::string_view rest) {
      if (rest != "decay" && rest != "num_updates") ++num_averages;
    });
    if (num_averages == num_taken) return;
    result_.warnings.push_back(
        fmt::format("{} of {} tensors of the running average belong to no parameter of the U-Net, and were not taken",
                    num_averages - num_taken, num_averages));
  }

  // [classes + 1, width], the null class last.
  at::Tensor class_table() {
    const auto found = archive_.tensors().find(kOriginalClassTable);
    const std::vector<std::int64_t> shape{config().num_classes, config().unet->cross_attention_dim};
    if (found == archive_.tensors().end() || found->second.shape != shape) {
      throw ConfigError(fmt::format("the checkpoint has no '{}' of [{}], which the yaml's ClassEmbedder is",
                                    kOriginalClassTable, fmt::join(shape, ", ")));
    }
    const std::int64_t rows = config().num_classes;
    constexpr std::int64_t kImageNetRows = 1001;
    const std::int64_t classes =
        request_.num_classes > 0 ? request_.num_classes : (rows == kImageNetRows ? rows - 1 : rows);
    if (classes > rows) {
      throw ConfigError(fmt::format("--classes is {}; the checkpoint's table has {} rows", classes, rows));
    }
    const at::Tensor table = archive_.read(kOriginalClassTable);
    if (classes < rows) {
      result_.facts.push_back(
          fmt::format("classes 0 to {}; row {} of the table is the null class", classes - 1, classes));
      return table.narrow(0, 0, classes + 1).clone();
    }
    result_.facts.push_back(
        fmt::format("classes 0 to {}; a null class was added: the mean of the table's {} rows", classes - 1, rows));
    return at::cat({table, table.to(at::kFloat).mean(0, true).to(table.scalar_type())});
  }

  void import_text_encoder() {
    const auto destination_of = [this](std::string_view rest, std::int64_t num_layers) {
      switch (config().conditioner) {
        case Conditioner::kBert:
          return bert_destination(rest);
        case Conditioner::kClip:
          return clip_destination(rest);
        default:
          return open_clip_destination(rest, num_layers);
      }
    };
    std::shared_ptr<model::TextEncoder> network;
    std::int64_t num_layers = 0;
    if (config().conditioner == Conditioner::kBert) {
      const model::ShapesOnly shapes_only;
      network = std::make_shared<model::LdmBert>(config().bert);
    } else if (config().conditioner == Conditioner::kClip || config().conditioner == Conditioner::kOpenClip) {
      const model::ClipTextConfig clip = clip_config();
      num_layers = clip.num_hidden_layers;
      const model::ShapesOnly shapes_only;
      network = std::make_shared<model::ClipTextModel>(clip);
    }
    if (!network) return;
    Collected collected(network);
    for_each(kConditionerPrefix, [&](const std::string& name, std::string_view rest) {
      if (const auto destination = destination_of(rest, num_layers)) {
        collected.take(archive_, name, *destination);
      } else if (!is_unused_by_text_encoder(rest)) {
        refuse_unknown(name);
      }
    });
    collected.finish("text encoder");
    result_.networks.text_encoder = network;
  }

  // A tensor's number of rows or columns.
  std::int64_t axis_of(const std::string& name, std::size_t axis) const {
    const auto found = archive_.tensors().find(std::string(kConditionerPrefix) + name);
    if (found == archive_.tensors().end() || found->second.shape.size() <= axis) {
      throw ConfigError(
          fmt::format("the checkpoint has no '{}{}', which the yaml's text encoder needs", kConditionerPrefix, name));
    }
    return found->second.shape[axis];
  }

  // The yaml names a published encoder; the checkpoint's shapes say which sizes it has. Heads are 64 wide in all.
  model::ClipTextConfig clip_config() const {
    constexpr std::int64_t kHeadWidth = 64;
    const bool open_clip = result_.config.conditioner == Conditioner::kOpenClip;
    const std::string embeddings = "transformer.text_model.embeddings.";
    const std::string layers = open_clip ? "model.transformer.resblocks." : "transformer.text_model.encoder.layers.";
    model::ClipTextConfig clip;
    const std::string tokens = open_clip ? "model.token_embedding.weight" : embeddings + "token_embedding.weight";
    clip.vocab_size = axis_of(tokens, 0);
    clip.hidden_size = axis_of(tokens, 1);
    clip.max_position_embeddings =
        axis_of(open_clip ? "model.positional_embedding" : embeddings + "position_embedding.weight", 0);
    clip.intermediate_size = axis_of(layers + (open_clip ? "0.mlp.c_fc.weight" : "0.mlp.fc1.weight"), 0);
    clip.num_hidden_layers = 0;
    const auto has_layer = [&](std::int64_t layer) {
      return archive_.contains(fmt::format("{}{}{}.{}", kConditionerPrefix, layers, layer,
                                           open_clip ? "ln_1.weight" : "layer_norm1.weight"));
    };
    while (has_layer(clip.num_hidden_layers)) ++clip.num_hidden_layers;
    if (result_.config.drop_last_clip_layer) --clip.num_hidden_layers;
    if (clip.hidden_size < kHeadWidth || clip.hidden_size % kHeadWidth != 0 || clip.num_hidden_layers < 1) {
      throw ConfigError("the checkpoint's text encoder has not the form of CLIP's");
    }
    clip.num_attention_heads = clip.hidden_size / kHeadWidth;
    clip.projection_dim = clip.hidden_size;
    clip.hidden_act = open_clip ? "gelu" : "quick_gelu";
    clip.eos_token_id = clip.vocab_size - 1;
    clip.bos_token_id = clip.vocab_size - 2;
    return clip;
  }

  void note_rest() {
    std::int64_t num_left = 0;
    std::string example;
    const bool takes_first_stage = config().kl || config().vq;
    const bool takes_conditioner = config().conditioner != Conditioner::kNone;
    for (const auto& [name, tensor] : archive_.tensors()) {
      const bool placed = name.starts_with(kUNetPrefix) || (takes_first_stage && name.starts_with(kFirstStagePrefix)) ||
                          (takes_conditioner && name.starts_with(kConditionerPrefix));
      if (placed || is_by_product(name)) continue;
      if (num_left++ == 0) example = name;
    }
    if (num_left > 0) {
      result_.warnings.push_back(
          fmt::format("{} tensors of the checkpoint were left out, among them '{}'", num_left, example));
    }
  }

  const ImportRequest& request_;
  io::TorchArchive archive_;
  std::string prefix_;
  ImportResult result_;
};

}  // namespace

ImportResult import_checkpoint(const ImportRequest& request) { return Import(request).run(); }

std::vector<fs::path> yamls_near(const fs::path& checkpoint) {
  std::vector<fs::path> found;
  const fs::path folder = fs::absolute(checkpoint).lexically_normal().parent_path();
  for (const fs::path& place : {folder, folder.parent_path() / "configs"}) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(place, ignored)) {
      const std::string extension = entry.path().extension().string();
      if (entry.is_regular_file(ignored) && (extension == ".yaml" || extension == ".yml")) {
        found.push_back(entry.path());
      }
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace dpldm::compvis
