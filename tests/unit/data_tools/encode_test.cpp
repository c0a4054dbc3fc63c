#include <functional>
#include <limits>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "accounting/privacy_stamp.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data_tools/captions_file.h"
#include "model/autoencoder_kl.h"
#include "model/model_directory.h"
#include "unit/data_tools/tool_test.h"

namespace dpldm::tools {
namespace {

constexpr std::int64_t kNumImages = 11;

class Encode : public ToolTest {
 protected:
  Encode() {
    torch::manual_seed(1);
    model::AutoencoderConfig config;
    config.in_channels = config.out_channels = 1;
    config.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
    config.up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
    config.block_out_channels = {8, 16};
    config.norm_num_groups = 4;
    config.latent_channels = 2;
    config.scaling_factor = 0.5;
    autoencoder_ = std::make_shared<model::AutoencoderKL>(config);
    model::save_autoencoder(*autoencoder_, path("model/vae"));

    info_.visibility = data::Visibility::kPrivate;
    info_.num_records = kNumImages;
    info_.channels = 1;
    info_.height = info_.width = 8;
    info_.class_names = {"a", "b"};
    info_.source = "folder scans";
    images_ = at::randint(0, 256, {kNumImages, 1, 8, 8}).to(at::kByte);
    write_images("images.h5", info_);
  }

  // The same images, which say this of themselves.
  void write_images(const std::string& name, const data::ImageFileInfo& info) const {
    data::ImageFileWriter writer(path(name), info);
    writer.append(images_, at::arange(kNumImages).remainder(2));
    writer.commit();
  }

  std::vector<std::string> arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"encode", "--model", text("model"), "--images", text("images.h5")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  static test::ProcessResult run_on(int num_ranks, std::vector<std::string> arguments) {
    const std::vector<std::string> launcher{"mpirun",    "-np",  std::to_string(num_ranks),  "--oversubscribe",
                                            "--bind-to", "none", DPLDM_BIN_DIR "/dpldm-data"};
    arguments.insert(arguments.begin(), launcher.begin(), launcher.end());
    return test::run_process(arguments);
  }

  // And what belongs to a file of that name.
  int files_named(const std::string& name) const {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path(name).parent_path())) {
      if (entry.path().filename().string().starts_with(name)) ++count;
    }
    return count;
  }

  // Two ranks, each started in a folder of its own and with options of its own, which must not agree.
  void expect_refused_apart(const std::vector<std::string>& first, const std::vector<std::string>& second,
                            const std::string& what, const std::string& model_of_second = "model",
                            const std::string& images_of_second = "images.h5") const {
    std::vector<std::string> all{"mpirun", "--oversubscribe", "--bind-to", "none"};
    const auto add_rank = [&](const std::string& folder, const std::string& model, const std::string& images,
                              const std::vector<std::string>& more) {
      std::filesystem::create_directories(path(folder));
      all.insert(all.end(), {"-np", "1", "--wdir", text(folder), DPLDM_BIN_DIR "/dpldm-data"});
      all.insert(all.end(),
                 {"encode", "--model", text(model), "--images", text(images), "--threads", "1", "-o", text("l.h5")});
      all.insert(all.end(), more.begin(), more.end());
    };
    add_rank("first", "model", "images.h5", first);
    all.emplace_back(":");
    add_rank("second", model_of_second, images_of_second, second);
    const test::ProcessResult result = test::run_process(all);
    EXPECT_EQ(result.exit_code, 64) << what << result.err;
    EXPECT_THAT(result.err, testing::HasSubstr(what));
    EXPECT_EQ(files_named("l.h5"), 0);
  }

  std::shared_ptr<model::AutoencoderKL> autoencoder_;
  data::ImageFileInfo info_;
  at::Tensor images_;
};

TEST_F(Encode, Moments_AreTheAutoencodersWithTheFlipAsSecondVariant) {
  const test::ProcessResult result = run(arguments({"--flips", "--batch", "4", "-o", text("l.h5")}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const data::LatentFile file(path("l.h5"));
  EXPECT_EQ(file.info().visibility, data::Visibility::kPrivate) << "visibility is the images'";
  EXPECT_EQ(file.info().source, "folder scans") << "as the images say";
  EXPECT_THAT(run({"inspect", "--json", text("l.h5")}).out, testing::HasSubstr("\"source\":\"folder scans\""));
  EXPECT_EQ(file.info().scaling_factor, 0.5);
  EXPECT_EQ(file.info().encoder_sha256, model::weights_sha256(*autoencoder_));
  EXPECT_EQ(file.info().image_height, 8);
  EXPECT_NO_THROW(file.verify_content());
  EXPECT_TRUE(at::equal(file.read_labels(), at::arange(kNumImages).remainder(2)));

  const torch::NoGradGuard no_grad;
  const at::Tensor scaled = images_.to(at::kFloat) / 127.5 - 1;
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < kNumImages; ++i) ids.push_back(i);
  const at::Tensor moments = file.read_moments(ids);
  ASSERT_EQ(moments.sizes(), (at::IntArrayRef{kNumImages, 2, 4, 4, 4}));
  EXPECT_TRUE(at::allclose(moments.select(1, 0), autoencoder_->encode(scaled), 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(moments.select(1, 1), autoencoder_->encode(scaled.flip({3})), 1e-4, 1e-5));
}

TEST_F(Encode, File_IsTheSameForEveryNumberOfRanksAndThreads) {
  // Eleven images are six batches of two, or two batches of eight: then one of three ranks has nothing to do.
  for (const auto& [precision, batch] : {std::pair{"fp32", "2"}, std::pair{"bf16", "8"}}) {
    const auto with = [&, precision = precision, batch = batch](const std::string& name, const std::string& threads) {
      return arguments({"--flips", "--half", "--batch", batch, "--precision", precision, "--threads", threads,
                        "--force", "-o", text(name)});
    };
    ASSERT_EQ(run(with("one.h5", "1")).exit_code, 0);
    ASSERT_EQ(run(with("threads.h5", "3")).exit_code, 0);
    const test::ProcessResult result = run_on(3, with("ranks.h5", "1"));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(test::bytes_of(path("threads.h5")), test::bytes_of(path("one.h5"))) << precision;
    EXPECT_EQ(test::bytes_of(path("ranks.h5")), test::bytes_of(path("one.h5"))) << precision;
  }
}

TEST_F(Encode, DamagedImages_AreRefusedBeforeAnythingIsWritten) {
  std::string bytes = test::bytes_of(path("images.h5"));
  const std::string pixels(static_cast<const char*>(images_.const_data_ptr()),
                           static_cast<std::size_t>(images_.numel()));
  const std::size_t at = bytes.find(pixels);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 100] ^= 1;
  write("images.h5", bytes);
  const test::ProcessResult result = run(arguments({"-o", text("l.h5")}));
  EXPECT_EQ(result.exit_code, 74) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr("damaged"));
  EXPECT_EQ(files_named("l.h5"), 0);
}

// The captions of the images 0, 1, ... as rows, in one text.
std::string caption_rows(const std::function<std::string(std::int64_t)>& row) {
  std::string rows;
  for (std::int64_t i = 0; i < kNumImages; ++i) rows += row(i);
  return rows;
}

TEST_F(Encode, RanksWithDifferentOptions_AreRefused) {
  for (const std::vector<std::string>& other : std::vector<std::vector<std::string>>{
           {"--batch", "4"}, {"--flips"}, {"--half"}, {"--precision", "bf16"}, {"--save-every", "9"}}) {
    expect_refused_apart({}, other,
                         "the configuration must be the same on all ranks, but rank 1 has '" + other.front() + " ");
  }
}

// What they are marked as is in no checksum.
TEST_F(Encode, RanksWhoseImagesSayOtherThingsOfThemselves_AreRefused) {
  data::ImageFileInfo marked = info_;
  marked.visibility = data::Visibility::kPublic;
  write_images("marked.h5", marked);
  expect_refused_apart({}, {}, "but rank 1 has 'images that are public' where rank 0 has 'images that are private'",
                       "model", "marked.h5");
  data::ImageFileInfo named = info_;
  named.class_names = {"b", "a"};
  write_images("named.h5", named);
  expect_refused_apart({}, {}, "but rank 1 has 'classes b, a'", "model", "named.h5");
  data::ImageFileInfo sourced = info_;
  sourced.source = "folder others";
  write_images("sourced.h5", sourced);
  expect_refused_apart({}, {}, "but rank 1 has 'made from folder others'", "model", "sourced.h5");
}

TEST_F(Encode, RanksThatSeeOtherCaptionsAnotherTokenizerOrOtherWeights_AreRefused) {
  // One name, as on nodes that have the file on disks of their own.
  write("first/c.csv", "caption\n" + caption_rows([](std::int64_t) { return std::string("cat\n"); }));
  write("second/c.csv", "caption\n" + caption_rows([](std::int64_t) { return std::string("dog\n"); }));
  write("words/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\ndog\n");
  const std::vector<std::string> captions{"--captions", "c.csv", "--tokenizer", text("words")};
  expect_refused_apart(captions, captions, "but rank 1 has '--captions SHA-256 ");

  write("second/c.csv", test::bytes_of(path("first/c.csv")));
  write("others/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ndog\ncat\n");
  expect_refused_apart(captions, {"--captions", "c.csv", "--tokenizer", text("others")},
                       "but rank 1 has 'tokenizer: SHA-256 ");

  const torch::NoGradGuard no_grad;
  autoencoder_->named_parameters()["encoder.conv_in.bias"].add_(1);
  model::save_autoencoder(*autoencoder_, path("other model/vae"));
  expect_refused_apart({}, {}, "the SHA-256 of the model must be the same on all ranks, but rank 1 has ",
                       "other model");
}

// As on two nodes whose /tmp is a disk of their own: what the first try leaves on one of them is there at the second,
// when rank 0 is on the other.
TEST_F(Encode, FolderOfOneRanksOwn_IsRefusedEvenWhereAnUnfinishedFileLies) {
  for (const char* folder : {"out", "own"}) std::filesystem::create_directory(path(folder));
  const std::vector<std::string> apart{"unshare", "--mount", "--propagation", "private"};
  std::vector<std::string> trial = apart;
  trial.insert(trial.end(), {"mount", "--bind", text("own"), text("out")});
  if (test::run_process(trial).exit_code != 0) GTEST_SKIP() << "mount namespaces are not allowed here";

  const std::vector<std::string> program{DPLDM_BIN_DIR "/dpldm-data",
                                         "encode",
                                         "--model",
                                         text("model"),
                                         "--images",
                                         text("images.h5"),
                                         "--batch",
                                         "2",
                                         "--threads",
                                         "1",
                                         "-o",
                                         text("out/l.h5")};
  std::vector<std::string> all{"mpirun", "--oversubscribe", "--bind-to", "none", "-np", "1"};
  all.insert(all.end(), program.begin(), program.end());
  all.insert(all.end(), {":", "-np", "1"});
  all.insert(all.end(), apart.begin(), apart.end());
  all.insert(all.end(),
             {"sh", "-c", R"(mount --bind "$1" "$2" && shift 2 && exec "$@")", "sh", text("own"), text("out")});
  all.insert(all.end(), program.begin(), program.end());
  const auto expect_refused = [&] {
    const test::ProcessResult result = test::run_process(all);
    EXPECT_EQ(result.exit_code, 74) << result.err;
    EXPECT_THAT(result.err, testing::HasSubstr("rank 1 does not see what rank 0 writes to " + text("out")));
    EXPECT_FALSE(std::filesystem::exists(path("out/l.h5")));
  };
  expect_refused();
  std::filesystem::rename(path("out"), path("own"));
  EXPECT_FALSE(std::filesystem::is_empty(path("own")));
  std::filesystem::create_directory(path("out"));
  expect_refused();
}

TEST_F(Encode, Captions_BecomeTokensInWhicheverFormTheyCome) {
  write("model/tokenizer/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\ndog\n,\n");
  write("model/bert/config.json", R"({"max_position_embeddings": 6})");
  const auto word = [](std::int64_t i) { return i % 3 == 0 ? "cat" : "Dog, cat"; };
  write("c.csv", "caption\n" + caption_rows([&](std::int64_t i) { return fmt::format("\"{}\"\n", word(i)); }));
  write("c.jsonl", caption_rows([&](std::int64_t i) {
          // Backwards, each with its record.
          const std::int64_t record = kNumImages - 1 - i;
          return fmt::format("{{\"record\": {}, \"caption\": \"{}\"}}\n\n", record, word(record));
        }));
  for (const char* captions : {"c.csv", "c.jsonl"}) {
    const std::string output = text(std::string(captions) + ".h5");
    const test::ProcessResult result = run(arguments({"--captions", text(captions), "-o", output}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, testing::HasSubstr(", 6 tokens each"));
    const data::LatentFile file(output);
    EXPECT_EQ(file.info().num_tokens, 6);
    EXPECT_EQ(file.info().vocabulary_size, 7);
    EXPECT_EQ(file.info().tokenizer_sha256.size(), 64U);
    EXPECT_NO_THROW(file.verify_content());
    const std::vector<std::int64_t> ids{0, 1, 10};
    EXPECT_TRUE(
        at::equal(file.read_tokens(ids),
                  torch::tensor({2, 4, 3, 0, 0, 0, 2, 5, 6, 4, 3, 0, 2, 5, 6, 4, 3, 0}, torch::kLong).view({3, 6})))
        << file.read_tokens(ids);
  }
  EXPECT_EQ(run({"inspect", "--json", text("c.csv.h5")}).out.find("\"vocabulary_size\":7") == std::string::npos, false);
}

TEST_F(Encode, WrongCaptions_AreRefusedWithoutQuotingThem) {
  const auto expect_silent = [](const std::string& message, const std::string& what) {
    EXPECT_THAT(message, testing::AllOf(testing::HasSubstr(what), testing::Not(testing::HasSubstr("secret"))));
  };
  const auto refused = [&](const std::string& name, const std::string& content, const std::string& what) {
    write(name, content);
    try {
      read_captions_file(path(name), kNumImages);
      FAIL() << "accepted; expected: " << what;
    } catch (const ConfigError& error) {
      expect_silent(error.what(), what);
    }
  };
  refused("c.csv", "caption\nsecret\n", "1 captions for 11 images");
  refused("c.csv", "text\nsecret\n", "no column 'caption'");
  refused("c.txt", "secret\n", "must end in .csv or .jsonl");
  refused("c.jsonl", "\n{\"caption\": \"secret\"\n", "line 2 is not a JSON object");
  refused("c.jsonl", "[\"secret\"]\n", "line 1 is not a JSON object");
  refused("c.jsonl", "{\"text\": \"secret\"}\n", "no text under the key 'caption'");
  const auto numbered = [](std::int64_t first) {
    return "record,caption\n" +
           caption_rows([&](std::int64_t i) { return fmt::format("{},secret\n", i == 0 ? first : i); });
  };
  refused("c.csv", numbered(11), "not one of 0 to 10");
  refused("c.csv", numbered(10), "two captions for record 10");

  write("c.csv", "caption\n" + caption_rows([](std::int64_t) { return std::string("secret\xff\n"); }));
  const std::vector<std::string> command = arguments({"--captions", text("c.csv"), "-o", text("l.h5")});
  expect_refusal(command, 64, "has no tokenizer");
  write("model/tokenizer/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
  const test::ProcessResult result = run(command);
  EXPECT_EQ(result.exit_code, 64);
  expect_silent(result.err, "record 0: a caption is not UTF-8");
  EXPECT_FALSE(std::filesystem::exists(path("l.h5")));
}

TEST_F(Encode, AutoencoderThatSawPrivateRecords_IsRefused) {
  model::save_autoencoder(*autoencoder_, path("model/vae"), accounting::stamp_for_checkpoint());
  expect_refusal(arguments({"-o", text("l.h5")}), 64, "encode takes a public autoencoder only");
}

TEST_F(Encode, OutputThatIsRead_IsRefusedAndAnotherNeedsForce) {
  write("c.csv", "caption\n" + caption_rows([](std::int64_t) { return std::string("cat\n"); }));
  write("words/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\n");
  const std::vector<std::string> words{"--captions", text("c.csv"), "--tokenizer", text("words"), "--force", "-o"};
  for (const char* input : {"images.h5", "model/vae/diffusion_pytorch_model.safetensors", "model/vae/config.json",
                            "c.csv", "words/vocab.txt"}) {
    const std::string before = test::bytes_of(path(input));
    std::vector<std::string> command = arguments(words);
    command.push_back(text(input));
    expect_refusal(command, 64, "is read here and would be overwritten");
    EXPECT_EQ(test::bytes_of(path(input)), before) << input;
  }
  write("l.h5", "precious");
  expect_refusal(arguments({"-o", text("l.h5")}), 64, "l.h5 is there already; --force replaces it");
  EXPECT_EQ(run(arguments({"-o", text("l.h5"), "--force"})).exit_code, 0);
  EXPECT_EQ(data::LatentFile(path("l.h5")).info().num_records, kNumImages);
}

TEST_F(Encode, NumberOfTokensWithoutCaptions_IsRefused) {
  expect_refusal(arguments({"--num-tokens", "5", "-o", text("l.h5")}), 64,
                 "--num-tokens is given, but there are no captions");
}

TEST_F(Encode, AutoencoderThatIsNotFinite_IsRefusedBeforeAFileIsBegun) {
  const torch::NoGradGuard no_grad;
  at::Tensor weight = autoencoder_->named_parameters()["encoder.conv_in.bias"];
  weight.fill_(1e30F);
  model::save_autoencoder(*autoencoder_, path("model/vae"));
  expect_refusal(arguments({"-o", text("l.h5"), "--half"}), 74, "makes moments of the first image that are not finite");
  weight.fill_(std::numeric_limits<float>::quiet_NaN());
  model::save_autoencoder(*autoencoder_, path("model/vae"));
  expect_refusal(arguments({"-o", text("l.h5")}), 74, "the weight 'encoder.conv_in.bias'");
}

TEST_F(Encode, WrongInput_IsRefusedOnEveryNumberOfRanks) {
  expect_refusal(arguments({"-o", text("l.h5"), "--precision", "fp8"}), 64, "fp32 and bf16 are allowed");
  expect_refusal({"encode", "--model", text("model"), "--images", text("absent.h5"), "-o", text("l.h5")}, 74,
                 "No such file");
  expect_refusal({"encode", "--images", text("images.h5"), "-o", text("l.h5")}, 64, "--model is missing");
  expect_refusal(arguments({"-o", text("images.h5")}), 64, "would be overwritten");
  EXPECT_EQ(data::ImageFile(path("images.h5")).info().num_records, kNumImages);

  data::ImageFileInfo info;
  info.num_records = 1;
  info.channels = 1;
  info.height = info.width = 7;
  data::ImageFileWriter writer(path("odd.h5"), info);
  writer.append(at::zeros({1, 1, 7, 7}, at::kByte), at::Tensor());
  writer.commit();
  expect_refusal({"encode", "--model", text("model"), "--images", text("odd.h5"), "-o", text("l.h5")}, 64,
                 "needs multiples of 2");

  const test::ProcessResult result =
      run_on(2, {"encode", "--model", text("model"), "--images", text("odd.h5"), "-o", text("l.h5")});
  EXPECT_EQ(result.exit_code, 64) << result.err;
  EXPECT_FALSE(std::filesystem::exists(path("l.h5")));
}

}  // namespace
}  // namespace dpldm::tools
