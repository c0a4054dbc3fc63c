#include "model/model_directory.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "io/json_file.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/model_index.h"
#include "support/file_bytes.h"
#include "support/small_networks.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

class ModelDirectory : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    root_ = fs::path(testing::TempDir()) / ("model_directory_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
    unet_ = std::make_shared<UNet>(test::small_unet_config());
    save_unet(*unet_, root_ / "unet");
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string refusal() {
    try {
      load_unet(root_);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  io::NamedTensors stored() { return io::read_safetensors(root_ / "unet" / kWeights); }
  void store(const io::NamedTensors& tensors) { io::write_safetensors(root_ / "unet" / kWeights, tensors); }
  // The U-Net's tensors once more, in two files with an index.
  void store_in_two(const std::string& first_file, const std::string& second_file, const std::string& index) {
    io::NamedTensors first = stored();
    const io::NamedTensors second(first.begin() + 10, first.end());
    first.resize(10);
    nlohmann::json map;
    for (const auto& [name, tensor] : first) map[name] = first_file;
    for (const auto& [name, tensor] : second) map[name] = second_file;
    io::write_safetensors(root_ / "unet" / first_file, first);
    io::write_safetensors(root_ / "unet" / second_file, second);
    io::write_json_file(root_ / "unet" / index, {{"weight_map", map}});
  }

  fs::path root_;
  std::shared_ptr<UNet> unet_;
};

TEST_F(ModelDirectory, PipelineAndNetworkDirectoriesAreBothModels) {
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  EXPECT_EQ(weights_sha256(*load_unet(root_ / "unet")), weights_sha256(*unet_));
  EXPECT_THROW(load_autoencoder(root_), ConfigError);
  EXPECT_THROW(load_unet(root_ / "nowhere"), ConfigError);
  write_model_index(root_);
  test::write_bytes(root_ / "config.json", "{}");
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_)) << "beside the index of a pipeline";
  try {
    load_autoencoder(root_);
    ADD_FAILURE() << "was accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("neither a network's config.json nor vae or vqvae/config.json"));
  }
}

TEST_F(ModelDirectory, ClassTableIsStoredAsTheLinearMapThatDiffusersKnows) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : stored()) tensors[name] = tensor;
  EXPECT_TRUE(at::equal(tensors["encoder_hid_proj.weight"], unet_->class_embedder()->weight.detach().t()));
  EXPECT_TRUE(at::equal(tensors["encoder_hid_proj.bias"], torch::zeros({12})));
  const auto config = io::read_json_file(root_ / "unet" / "config.json");
  EXPECT_EQ(config["encoder_hid_dim"], 6);
  EXPECT_EQ(config["encoder_hid_dim_type"], "text_proj");
}

TEST_F(ModelDirectory, IndexThatDoesNotFitTheComponentsIsRefused) {
  const auto index = [&](const char* text) { test::write_bytes(root_ / "model_index.json", text); };
  index(R"({"unet": ["diffusers", "UNet2DConditionModel"]})");
  EXPECT_EQ(refusal(), "accepted");
  for (const char* text : {R"({})", R"({"unet": [null, null]})", R"({"unet": "UNet2DConditionModel"})"}) {
    index(text);
    EXPECT_THAT(refusal(), HasSubstr("does not name 'unet'")) << text;
  }
  index(R"({"unet": ["diffusers", "UNet2DModel"]})");
  EXPECT_THAT(refusal(), HasSubstr("calls 'unet' a UNet2DModel, its config.json a UNet2DConditionModel"));
  index("[]");
  EXPECT_THAT(refusal(), HasSubstr("does not hold a JSON object"));
}

TEST_F(ModelDirectory, MissingTensorIsNamed) {
  auto tensors = stored();
  std::erase_if(tensors, [](const auto& entry) { return entry.first == "conv_in.bias"; });
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_in.bias'"));
}

TEST_F(ModelDirectory, SurplusTensorIsNamed) {
  auto tensors = stored();
  tensors.emplace_back("conv_in.scale", torch::ones({1}));
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_in.scale'"));
}

TEST_F(ModelDirectory, WrongShapeIsNamed) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) {
    if (name == "conv_out.bias") tensor = torch::zeros({5});
  }
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_out.bias' has the shape 5; the configuration needs 4"));
}

TEST_F(ModelDirectory, TensorUnderItsOldAndItsNewNameIsRefused) {
  save_autoencoder(AutoencoderKL(test::small_autoencoder_config()), root_ / "vae");
  auto tensors = io::read_safetensors(root_ / "vae" / kWeights);
  const std::string prefix = "decoder.mid_block.attentions.0.";
  tensors.emplace_back(prefix + "query.weight", torch::ones({8, 8}));
  io::write_safetensors(root_ / "vae" / kWeights, tensors);
  try {
    load_autoencoder(root_);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'" + prefix + "to_q.weight' is there twice"));
  }
}

TEST_F(ModelDirectory, TextEncoderWithAndWithoutItsPrefixIsRefused) {
  ClipTextConfig config;
  config.vocab_size = 20;
  config.hidden_size = 12;
  config.intermediate_size = 16;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 2;
  save_text_encoder(ClipTextModel(config), root_ / "text_encoder");
  auto tensors = io::read_safetensors(root_ / "text_encoder" / "model.safetensors");
  tensors.emplace_back("final_layer_norm.bias", torch::ones({12}));
  io::write_safetensors(root_ / "text_encoder" / "model.safetensors", tensors);
  try {
    load_text_encoder(root_);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'text_model.final_layer_norm.bias' is there twice"));
  }
}

TEST_F(ModelDirectory, WeightThatIsNoNumberIsNamed) {
  EXPECT_NO_THROW(require_finite(*unet_, "m"));
  {
    const torch::NoGradGuard no_grad;
    unet_->named_parameters()["mid_block.resnets.1.conv2.bias"][3] = std::numeric_limits<float>::infinity();
  }
  try {
    require_finite(*unet_, "m");
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("m: the weight 'mid_block.resnets.1.conv2.bias'"));
  }
}

TEST_F(ModelDirectory, ClassNameThatIsNoTextIsNoClass) {
  EXPECT_EQ(network_class(root_ / "unet"), "UNet2DConditionModel");
  for (const nlohmann::json& name : {nlohmann::json(3), nlohmann::json(), nlohmann::json::array()}) {
    io::write_json_file(root_ / "unet" / "config.json", {{"_class_name", name}});
    EXPECT_EQ(network_class(root_ / "unet"), "") << name.dump();
    EXPECT_FALSE(has_text_encoder(root_ / "unet")) << name.dump();
  }
}

TEST_F(ModelDirectory, HalfPrecisionFilesAreLoadedIntoFp32) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kHalf);
  store(tensors);
  const auto unet = load_unet(root_);
  EXPECT_EQ(unet->named_parameters()["conv_in.weight"].scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(unet->named_parameters()["conv_in.weight"], unet_->named_parameters()["conv_in.weight"],
                           1e-3, 1e-4));
}

// What was not trained comes back as it was, bit for bit and in its type, so that a comparison shows what was.
TEST_F(ModelDirectory, UntouchedTensorsComeBackInTheTypeOfTheirFile) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) tensor = tensor.to(name == "conv_in.weight" ? at::kBFloat16 : at::kHalf);
  store(tensors);
  const auto unet = load_unet(root_);
  {
    const torch::NoGradGuard no_grad;
    unet->named_parameters()["conv_out.bias"].add_(1e-7);
  }
  save_unet(*unet, root_ / "unet");
  std::map<std::string, at::Tensor> before;
  for (auto& [name, tensor] : tensors) before[name] = tensor;
  for (auto& [name, tensor] : stored()) {
    if (name == "conv_out.bias") {
      EXPECT_EQ(tensor.scalar_type(), at::kFloat);
    } else {
      EXPECT_EQ(tensor.scalar_type(), before[name].scalar_type()) << name;
      EXPECT_TRUE(at::equal(tensor, before[name])) << name;
    }
  }
}

// Of F64 what fp32 can say; and numbers that are none.
TEST_F(ModelDirectory, UntouchedF64AndNaNComeBackBitForBit) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(name == "conv_in.weight" ? at::kHalf : at::kDouble);
    if (name == "conv_in.weight") tensor[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
  }
  store(tensors);
  const std::string file = test::bytes_of(root_ / "unet" / kWeights);
  save_unet(*load_unet(root_), root_ / "unet");
  EXPECT_EQ(test::bytes_of(root_ / "unet" / kWeights), file);
}

TEST_F(ModelDirectory, WeightsInSeveralFilesAreRead) {
  store_in_two("m-1.safetensors", "m-2.safetensors", std::string(kWeights) + ".index.json");
  EXPECT_THAT(refusal(), HasSubstr("there are both"));
  fs::remove(root_ / "unet" / kWeights);
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
}

// As diffusers' save_pretrained(variant="fp16") leaves them.
TEST_F(ModelDirectory, WeightsOfAVariantAreTakenWhereThereAreNoOthers) {
  const fs::path plain = root_ / "unet" / kWeights;
  const fs::path half = root_ / "unet" / "diffusion_pytorch_model.fp16.safetensors";
  const fs::path raw = root_ / "unet" / "diffusion_pytorch_model.non_ema.safetensors";
  fs::rename(plain, half);
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  fs::copy_file(half, raw);
  EXPECT_THAT(refusal(), HasSubstr("there are the variants " + half.filename().string() + " and " +
                                   raw.filename().string() + ": remove those that are not meant"));
  fs::copy_file(half, plain);
  for (const fs::path& variant : {half, raw}) test::write_bytes(variant, "no weights");
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  for (const fs::path& variant : {half, raw}) fs::remove(variant);

  const std::string index = "diffusion_pytorch_model.safetensors.index.fp16.json";
  store_in_two("diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
               "diffusion_pytorch_model.fp16-00002-of-00002.safetensors", index);
  fs::remove(plain);
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  fs::remove(root_ / "unet" / index);
  EXPECT_THAT(refusal(), HasSubstr("there is neither"));
}

// A class embedder beside the U-Net, as an embedding of its own.
TEST_F(ModelDirectory, SeparateClassEmbedderIsFoldedIntoTheUnet) {
  const at::Tensor table = unet_->class_embedder()->weight.detach().clone();
  auto tensors = stored();
  std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("encoder_hid_proj."); });
  store(tensors);
  UNetConfig config = unet_->config();
  config.num_classes = 0;
  io::write_json_file(root_ / "unet" / "config.json", config.to_json());
  fs::create_directories(root_ / "class_embedder");
  io::write_json_file(root_ / "class_embedder" / "config.json", {{"_class_name", "ClassEmbedder"}});
  io::write_safetensors(root_ / "class_embedder" / kWeights, {{"embedding.weight", table}});
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  io::write_safetensors(root_ / "class_embedder" / kWeights, {{"embedding.weight", table.narrow(1, 0, 3)}});
  EXPECT_THAT(refusal(), HasSubstr("embedding.weight"));
}

// The projection of a text's encoding, whose bias happens to be zero, beside a table that others folded.
TEST_F(ModelDirectory, ZeroBiasMakesAClassTableOnlyWhereNoTextIsEncoded) {
  nlohmann::json config = unet_->config_json();
  config.erase("_num_class_labels");
  io::write_json_file(root_ / "unet" / "config.json", config);
  EXPECT_EQ(load_unet(root_)->config().num_classes, 6);
  fs::create_directories(root_ / "text_encoder");
  io::write_json_file(root_ / "text_encoder" / "config.json", {{"architectures", {"CLIPTextModel"}}});
  for (const fs::path& model : {root_, root_ / "unet"}) {
    const auto unet = load_unet(model);
    EXPECT_EQ(unet->config().num_classes, 0) << model;
    EXPECT_EQ(unet->config().encoder_hid_dim, 6) << model;
    EXPECT_TRUE(unet->takes_context()) << model;
  }
}

TEST_F(ModelDirectory, OtherKindsOfModelsAreRefused) {
  fs::create_directories(root_ / "text_encoder_2");
  io::write_json_file(root_ / "text_encoder_2" / "config.json", nlohmann::json::object());
  EXPECT_THAT(refusal(), HasSubstr("Stable Diffusion XL"));
  fs::create_directories(root_ / "transformer");
  io::write_json_file(root_ / "transformer" / "config.json", nlohmann::json::object());
  EXPECT_THAT(refusal(), HasSubstr("diffusion transformer"));
}

TEST_F(ModelDirectory, PickledWeightsAreRefusedWithAWord) {
  fs::rename(root_ / "unet" / kWeights, root_ / "unet" / "diffusion_pytorch_model.bin");
  EXPECT_THAT(refusal(), HasSubstr("pickle"));
  fs::copy_file(root_ / "unet" / "diffusion_pytorch_model.bin",
                root_ / "unet" / "diffusion_pytorch_model.fp16.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("first, or rename diffusion_pytorch_model.fp16.safetensors to take a variant"))
      << "other programs load the pickle";
}

LdmBertConfig small_bert() {
  LdmBertConfig config;
  config.vocab_size = 20;
  config.max_position_embeddings = 6;
  config.encoder_layers = 1;
  config.encoder_ffn_dim = 8;
  config.encoder_attention_heads = 2;
  config.head_dim = 4;
  config.d_model = 12;
  return config;
}

std::string class_of_pipeline(const Pipeline& pipeline, const fs::path& model) {
  save_pipeline(pipeline, {{"_class_name", "DDIMScheduler"}}, model);
  const nlohmann::json name = io::read_json_file(model / "model_index.json")["_class_name"];
  return name.is_array() ? name[1] : name;  // [file, class] for one of ours
}

TEST_F(ModelDirectory, PipelinesAreNamedAfterTheirNetworks) {
  AutoencoderConfig vae_config = test::small_autoencoder_config();
  const auto vae = std::make_shared<AutoencoderKL>(vae_config);
  EXPECT_EQ(class_of_pipeline({.unet = unet_, .autoencoder = vae}, root_ / "class"), "DPLDMPipeline");
  EXPECT_THAT(test::bytes_of(root_ / "class" / "dpldm_pipeline.py"), HasSubstr("class DPLDMPipeline("));
  UNetConfig text_config = test::small_unet_config();
  text_config.num_classes = 0;
  const auto text_unet = std::make_shared<UNet>(text_config);
  fs::create_directories(root_ / "words");
  io::write_json_file(root_ / "words" / "vocab.json", {{"a", 1}});
  ClipTextConfig clip_config;
  clip_config.vocab_size = 20;
  clip_config.hidden_size = 12;
  clip_config.intermediate_size = 16;
  clip_config.num_hidden_layers = 1;
  clip_config.num_attention_heads = 2;
  Pipeline pipeline{.unet = text_unet,
                    .autoencoder = vae,
                    .text_encoder = std::make_shared<ClipTextModel>(clip_config),
                    .tokenizer = root_ / "words"};
  EXPECT_EQ(class_of_pipeline(pipeline, root_ / "clip"), "StableDiffusionPipeline");
  EXPECT_TRUE(fs::exists(root_ / "clip" / "tokenizer" / "vocab.json"));
  EXPECT_EQ(load_text_encoder(root_ / "clip")->component(), "text_encoder");
  EXPECT_EQ(tokenizer_directory(root_ / "clip" / "unet"), root_ / "clip" / "tokenizer");
  for (const auto& [channels, name] : {std::pair{9, "StableDiffusionInpaintPipeline"}, {5, "DPLDMPipeline"}}) {
    Pipeline with_picture = pipeline;
    text_config.in_channels = channels;
    with_picture.unet = std::make_shared<UNet>(text_config);
    EXPECT_EQ(class_of_pipeline(with_picture, root_ / name), name) << "StableDiffusionPipeline gives the latent alone";
  }
  pipeline.text_encoder = std::make_shared<LdmBert>(small_bert());
  EXPECT_EQ(class_of_pipeline(pipeline, root_ / "bert"), "LDMTextToImagePipeline");
  EXPECT_EQ(weights_sha256(*load_text_encoder(root_ / "bert")), weights_sha256(*pipeline.text_encoder));
  EXPECT_EQ(weights_sha256(*load_conditioned_unet(root_ / "bert" / "unet")->text_encoder()),
            weights_sha256(*pipeline.text_encoder));
  EXPECT_EQ(weights_sha256(*load_autoencoder(root_ / "bert")), weights_sha256(*vae));
  EXPECT_FALSE(has_text_encoder(root_ / "class"));
  EXPECT_TRUE(has_text_encoder(root_ / "bert"));
  UNetConfig plain = UNetConfig::unconditional();
  plain.block_out_channels = {8, 8, 8, 8};
  plain.norm_num_groups = 4;
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = vae}, root_ / "plain"),
            "LDMPipeline");
  EXPECT_EQ(load_unet(root_ / "plain")->config().class_name(), "UNet2DModel");
  plain.in_channels = 6;
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = vae}, root_ / "scaled"),
            "DPLDMPipeline")
      << "LDMSuperResolutionPipeline decodes latents as if their scale were 1";
  vae_config.scaling_factor = 1;
  const auto unscaled = std::make_shared<AutoencoderKL>(vae_config);
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = unscaled}, root_ / "larger"),
            "LDMSuperResolutionPipeline");
  plain.in_channels = 7;
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = vae}, root_ / "inpainting"),
            "DPLDMPipeline")
      << "LDMPipeline gives the latent alone";
  plain.in_channels = 3;
  plain.num_class_embeds = 3;
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = vae}, root_ / "labels"),
            "DPLDMPipeline")
      << "LDMPipeline gives no labels";
  plain.num_class_embeds = 0;
  plain.channels_per_head = 0;
  plain.num_heads = {2, 2, 1, 4};
  EXPECT_EQ(class_of_pipeline({.unet = std::make_shared<UNet>(plain), .autoencoder = vae}, root_ / "heads"),
            "DPLDMPipeline");
  EXPECT_EQ(io::read_json_file(root_ / "heads" / "model_index.json")["unet"],
            (nlohmann::json{"dpldm_unet", "DPLDMUNet2DModel"}));
  EXPECT_THAT(test::bytes_of(root_ / "heads" / "unet" / "dpldm_unet.py"), HasSubstr("class DPLDMUNet2DModel("));
}

TEST_F(ModelDirectory, DigestDependsOnValuesNamesAndNothingElse) {
  const std::string before = weights_sha256(*unet_);
  {
    const torch::NoGradGuard no_grad;
    unet_->named_parameters()["conv_in.bias"].add_(1e-3);
  }
  EXPECT_NE(weights_sha256(*unet_), before);
  EXPECT_EQ(before.size(), 64U);
}

TEST_F(ModelDirectory, AutoencoderKeepsItsScale) {
  AutoencoderKL autoencoder(test::small_autoencoder_config());
  autoencoder.set_scaling_factor(1.25);
  save_autoencoder(autoencoder, root_ / "vae");
  const auto loaded = load_autoencoder(root_);
  EXPECT_EQ(loaded->config().scaling_factor, 1.25);
  EXPECT_EQ(weights_sha256(*loaded), weights_sha256(autoencoder));
}

TEST_F(ModelDirectory, IndexNamesTheComponentsThatAreThere) {
  write_scheduler_config(root_, {{"_class_name", "DDIMScheduler"}});
  write_model_index(root_);
  const auto index = io::read_json_file(root_ / "model_index.json");
  EXPECT_TRUE(index.contains("unet"));
  EXPECT_TRUE(index.contains("scheduler"));
  EXPECT_FALSE(index.contains("vae"));
  EXPECT_EQ(index["unet"], (nlohmann::json{"diffusers", "UNet2DConditionModel"}));
}

// As diffusers writes it, which is no JSON: the bound's default is minus infinity.
TEST_F(ModelDirectory, SchedulerOfDpmSolverIsRead) {
  write_scheduler_config(root_, {{"_class_name", "DPMSolverMultistepScheduler"}});
  const fs::path file = root_ / "scheduler" / "scheduler_config.json";
  test::write_bytes(file,
                    "{\n  \"beta_start\": 0.001,\n  \"lambda_min_clipped\": -Infinity,\n  \"solver_order\": 2\n}\n");
  const nlohmann::json config = read_scheduler_config(root_);
  EXPECT_EQ(config["beta_start"], 0.001);
  EXPECT_TRUE(config["lambda_min_clipped"].is_null());
  test::write_bytes(file, "{\n  \"beta_start\": -Infinity\n}\n");
  EXPECT_THROW(read_scheduler_config(root_), IoError);
}

TEST_F(ModelDirectory, SchedulerAndMetadataAreFoundFromTheNetworkToo) {
  EXPECT_TRUE(read_scheduler_config(root_).is_null());
  EXPECT_TRUE(read_dp_metadata(root_).is_null());
  write_scheduler_config(root_, {{"beta_start", 0.001}});
  write_dp_metadata(root_, {{"epsilon", 10}});
  write_model_index(root_);
  for (const fs::path& model : {root_, root_ / "unet"}) {
    EXPECT_EQ(read_scheduler_config(model)["beta_start"], 0.001);
    EXPECT_EQ(read_dp_metadata(model)["epsilon"], 10);
  }
}

}  // namespace
}  // namespace dpldm::model
