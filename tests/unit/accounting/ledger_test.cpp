#include "accounting/ledger.h"

#include <atomic>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "accounting/ledger_line.h"
#include "accounting/ledger_witnesses.h"
#include "base/digest.h"
#include "base/error.h"
#include "support/hanging_file.h"

namespace {

// Where the writes and syncs of the program under test pass by (--wrap in CMakeLists.txt).
struct Disk {
  std::uintmax_t num_bytes_synced = 0;       // of the file that was synced last
  std::uintmax_t num_head_bytes_synced = 0;  // of a head
  bool is_full = false;
  bool fails_to_sync = false;
} the_disk;

}  // namespace

extern "C" int __real_fdatasync(int descriptor);   // NOLINT
extern "C" int __wrap_fdatasync(int descriptor) {  // NOLINT
  if (the_disk.fails_to_sync) {
    errno = EIO;
    return -1;
  }
  the_disk.num_bytes_synced = std::filesystem::file_size("/proc/self/fd/" + std::to_string(descriptor));
  return __real_fdatasync(descriptor);
}

extern "C" int __real_fsync(int descriptor);   // NOLINT
extern "C" int __wrap_fsync(int descriptor) {  // NOLINT
  const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor));
  if (path.extension() == ".head") the_disk.num_head_bytes_synced = std::filesystem::file_size(path);
  return __real_fsync(descriptor);
}

extern "C" ssize_t __real_write(int descriptor, const void* bytes, std::size_t count);   // NOLINT
extern "C" ssize_t __wrap_write(int descriptor, const void* bytes, std::size_t count) {  // NOLINT
  if (the_disk.is_full) {
    errno = ENOSPC;
    return -1;
  }
  return __real_write(descriptor, bytes, count);
}

namespace dpldm::accounting {
namespace {

LedgerHeader small_header() {
  LedgerHeader header;
  header.run_id = "0123456789abcdef";
  header.num_records = 50000;
  header.sampling_rate = 0.01;
  header.expected_batch_size = 500;
  header.clip_norm = 1e-3;
  header.noise_multiplier = 1.0;
  header.planned_steps = 1000;
  header.target_epsilon = 2.0;
  header.delta = 1e-5;
  header.accountant = AccountantKind::kRdp;
  header.key_commitment = "ab";
  header.program_version = "0.1.0";
  return header;
}

LedgerEntry step_of(std::int64_t step, std::int64_t attempt = 0) {
  return {step, attempt, "step", {0.01, 1.0, 1, Sampler::kPoisson}};
}

class Ledger : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ledger-test-" + std::to_string(::getpid()) + "-" +
                                                        testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    path_ = folder_ / "ledger.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_steps(int count) {
    PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
    for (int step = 0; step < count; ++step) ledger.charge(step_of(step));
  }

  std::vector<std::string> lines() const {
    std::vector<std::string> result;
    std::ifstream stream(path_);
    for (std::string line; std::getline(stream, line);) result.push_back(line);
    return result;
  }

  void overwrite(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  void overwrite(const std::vector<std::string>& all) const {
    std::string text;
    for (const std::string& line : all) text += line + "\n";
    overwrite(text);
  }

  // What reading and opening say about the file now; both must refuse it.
  std::string refusal() const {
    std::string message = "not refused";
    try {
      PrivacyLedger::open(path_);
      return "open accepted it";
    } catch (const IoError&) {
    }
    try {
      PrivacyLedger::read(path_);
    } catch (const IoError& error) {
      message = error.what();
    }
    return message;
  }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

// On a file system without locks nothing else keeps two runs apart.
TEST_F(Ledger, LineOfAnotherWriter_EndsTheChargingBeforeTheNextRelease) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  ledger.charge(step_of(0));
  std::ofstream(path_, std::ios::app) << "{}\n";
  EXPECT_THROW(ledger.charge(step_of(1)), IoError);
  EXPECT_THROW(ledger.charge(step_of(2)), IoError);
}

// Two starts at once, where nothing is locked: each takes the other's for one that was never made, and removes it.
TEST_F(Ledger, FileThatAnotherTookThePlaceOf_EndsTheChargingBeforeTheNextRelease) {
  const std::string head = path_.string() + ".head";
  for (const std::string& replaced : {path_.string(), head}) {
    PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
    ledger.charge(step_of(0));
    std::filesystem::copy_file(replaced, folder_ / "another");
    std::filesystem::rename(folder_ / "another", replaced);
    EXPECT_THROW(ledger.charge(step_of(1)), IoError) << replaced;
    EXPECT_THROW(ledger.charge(step_of(2)), IoError) << replaced;
    std::filesystem::remove(path_);
    std::filesystem::remove(head);
  }
}

TEST_F(Ledger, EveryCharge_IsOnTheDiskBeforeItReturns) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  for (int step = 0; step < 3; ++step) {
    ledger.charge(step_of(step));
    EXPECT_EQ(the_disk.num_bytes_synced, std::filesystem::file_size(path_));
    EXPECT_EQ(lines().size(), static_cast<std::size_t>(step) + 2);
  }
}

// An empty head beside lines that were charged would look like one that was emptied.
TEST_F(Ledger, NewOne_HasItsHeadOnTheDisk) {
  const PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  EXPECT_GT(the_disk.num_head_bytes_synced, 0U);
  EXPECT_EQ(the_disk.num_head_bytes_synced, std::filesystem::file_size(path_.string() + ".head"));
}

TEST_F(Ledger, WasNeverMade_OnlyWhileNothingCanHaveBeenCharged) {
  const auto head = [this](const std::string& text) { std::ofstream(path_.string() + ".head") << text; };
  EXPECT_TRUE(PrivacyLedger::was_never_made(path_));
  head("");
  EXPECT_TRUE(PrivacyLedger::was_never_made(path_));
  std::filesystem::remove(path_.string() + ".head");
  write_steps(1);
  EXPECT_FALSE(PrivacyLedger::was_never_made(path_));
  const std::string whole_head = read_file(path_.string() + ".head", 1000);
  const std::vector<std::string> all = lines();
  // As a crash leaves them.
  head("");
  for (const std::string& text : {std::string(), all[0].substr(0, 40), all[0], all[0] + "\n"}) {
    overwrite(text);
    EXPECT_TRUE(PrivacyLedger::was_never_made(path_)) << text;
  }
  // As only a crash after the head was written, or an edit, would.
  for (const std::string& text :
       {all[0] + "\n" + all[1] + "\n", all[0] + "\n" + all[1], all[0] + "\n{", std::string(100'000, 'x')}) {
    overwrite(text);
    EXPECT_FALSE(PrivacyLedger::was_never_made(path_)) << text.substr(0, 1000);
  }
  std::filesystem::remove(path_);
  for (const std::string& text : {whole_head, whole_head.substr(0, 10)}) {
    head(text);
    EXPECT_FALSE(PrivacyLedger::was_never_made(path_)) << text;
  }
}

// The next line would follow on one that is not there.
TEST_F(Ledger, ChargeThatFailed_IsTheLast) {
  {
    PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
    ledger.charge(step_of(0));
    the_disk.is_full = true;
    EXPECT_THROW(ledger.charge(step_of(1)), IoError);
    the_disk.is_full = false;
    EXPECT_THROW(ledger.charge(step_of(2)), IoError);
  }
  EXPECT_EQ(PrivacyLedger::open(path_).num_steps(), 1);
}

TEST_F(Ledger, ChargeThatMayBeOnTheDisk_IsSpent) {
  {
    PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
    the_disk.fails_to_sync = true;
    EXPECT_THROW(ledger.charge(step_of(0)), IoError);
    the_disk.fails_to_sync = false;
    EXPECT_THROW(ledger.charge(step_of(1)), IoError);
  }
  EXPECT_EQ(PrivacyLedger::open(path_).num_steps(), 1);
}

TEST_F(Ledger, SameNoiseUnderAnotherSampler_IsAnotherEvent) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  ledger.charge(step_of(0));
  ledger.charge({0, 0, "mean image", {0.01, 1.0, 1, Sampler::kNone}});
  const GaussianEvent both[] = {step_of(0).event, {0.01, 1.0, 1, Sampler::kNone}};
  EXPECT_EQ(ledger.events().size(), 2U);
  EXPECT_EQ(ledger.epsilon(), epsilon_of(both, 1e-5, AccountantKind::kRdp));
}

TEST_F(Ledger, Charges_SurviveAndMerge) {
  LedgerHeader header = small_header();
  header.target_epsilon = std::numeric_limits<double>::infinity();
  header.accountant = AccountantKind::kPld;
  header.neighbouring = Neighbouring::kReplaceOne;
  {
    PrivacyLedger ledger = PrivacyLedger::create(path_, header);
    ledger.charge(step_of(0));
    ledger.charge({1, 0, "mean image", {1.0, 50.0, 1, Sampler::kNone}});
    ledger.charge(step_of(1));
  }
  const PrivacyLedger ledger = PrivacyLedger::read(path_);
  EXPECT_EQ(header_line(ledger.header()), header_line(header));
  ASSERT_EQ(ledger.entries().size(), 3U);
  EXPECT_EQ(ledger.entries()[1].kind, "mean image");
  EXPECT_EQ(ledger.num_steps(), 2);
  EXPECT_EQ(ledger.next_attempt(), 1);
  const std::vector<GaussianEvent> events = ledger.events();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].count, 2);
  EXPECT_EQ(events[1].sampler, Sampler::kNone);
  EXPECT_EQ(ledger.epsilon(), epsilon_of(events, 1e-5, AccountantKind::kPld, Neighbouring::kReplaceOne));
}

TEST_F(Ledger, ReleasesThatAreNotPlannedSteps_AreListedByKind) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  ledger.charge(step_of(0));
  ledger.charge({1, 0, "step", {0.01, 2.0, 1, Sampler::kPoisson}});  // another noise than the header's
  ledger.charge({0, 0, "mean image", {1.0, 50.0, 1, Sampler::kNone}});
  ledger.charge({0, 0, "mean image", {1.0, 50.0, 1, Sampler::kNone}});
  ledger.charge({0, 0, "histogram", {1.0, 30.0, 1, Sampler::kNone}});
  EXPECT_EQ(ledger.num_steps(), 1);
  const auto others = ledger.other_releases();
  ASSERT_EQ(others.size(), 3U);
  EXPECT_EQ(others[0].kind, "histogram");
  EXPECT_EQ(others[1].kind, "mean image");
  EXPECT_EQ(others[1].event.count, 2);
  EXPECT_EQ(others[2].kind, "step");
  EXPECT_EQ(others[2].event.noise_multiplier, 2.0);
}

TEST_F(Ledger, KeyOfEachAttempt_IsKept) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  LedgerEntry first = step_of(0);
  first.key_commitment = "ab";
  ledger.charge(first);
  ledger.charge(step_of(1));
  LedgerEntry resumed = step_of(1, 1);
  resumed.key_commitment = "cd";
  ledger.charge(resumed);
  const PrivacyLedger read = PrivacyLedger::read(path_);
  EXPECT_EQ(read.entries()[0].key_commitment, "ab");
  EXPECT_EQ(read.entries()[1].key_commitment, "");
  EXPECT_EQ(read.entries()[2].key_commitment, "cd");
}

// As by `dpldm privacy ledger` on a run that is going on.
TEST_F(Ledger, ReadWhileARunChargesIt_LacksNothing) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  std::atomic<bool> is_done{false};
  std::thread run([&] {
    std::ofstream metrics(folder_ / "metrics.jsonl");
    for (int step = 0; step < 300; ++step) {
      ledger.charge(step_of(step));
      metrics << "{\"step\":" << step + 1 << "}\n" << std::flush;
    }
    is_done = true;
  });
  std::string complaint;
  while (!is_done && complaint.empty()) {
    try {
      read_with_nothing_lost(path_, folder_);
    } catch (const IoError& error) {
      complaint = error.what();
    }
  }
  run.join();
  EXPECT_EQ(complaint, "");
  EXPECT_EQ(read_with_nothing_lost(path_, folder_).num_steps(), 300);
}

TEST_F(Ledger, CreateOverAnExistingOne_IsRefused) {
  write_steps(1);
  EXPECT_THROW(PrivacyLedger::create(path_, small_header()), IoError);
  EXPECT_EQ(PrivacyLedger::read(path_).num_steps(), 1);
}

TEST_F(Ledger, Missing_IsRefused) { EXPECT_THAT(refusal(), testing::HasSubstr("cannot read")); }

TEST_F(Ledger, Reopened_ContinuesTheChain_AndRepeatedStepsStaySpent) {
  write_steps(5);
  const std::string seen_by_checkpoint = PrivacyLedger::read(path_).head();
  {
    PrivacyLedger ledger = PrivacyLedger::open(path_);
    EXPECT_EQ(ledger.next_attempt(), 1);
    for (int step = 3; step < 6; ++step) ledger.charge(step_of(step, 1));  // resumed from a checkpoint at step 3
  }
  const PrivacyLedger ledger = PrivacyLedger::read(path_);
  EXPECT_EQ(ledger.num_steps(), 8);
  EXPECT_EQ(ledger.events()[0].count, 8);
  EXPECT_TRUE(ledger.contains_head(seen_by_checkpoint));
  EXPECT_TRUE(ledger.contains_head(ledger.head()));
  EXPECT_FALSE(ledger.contains_head(sha256_of("another")));
}

TEST_F(Ledger, StepChargedTwiceInOneAttempt_IsABug) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  ledger.charge(step_of(4));
  EXPECT_THROW(ledger.charge(step_of(4)), InternalError);
  EXPECT_THROW(ledger.charge(step_of(3)), InternalError);
  ledger.charge(step_of(3, 1));
  EXPECT_THROW(ledger.charge(step_of(5, 0)), InternalError);
  EXPECT_EQ(PrivacyLedger::read(path_).num_steps(), 2);
}

TEST_F(Ledger, HalfWrittenLastLine_IsNoEntry_AndIsCutOffOnlyByOpen) {
  write_steps(3);
  const auto whole = std::filesystem::file_size(path_);
  std::ofstream(path_, std::ios::app) << lines().back().substr(0, 40);
  const auto damaged = std::filesystem::file_size(path_);
  EXPECT_EQ(PrivacyLedger::read(path_).num_steps(), 3);
  EXPECT_EQ(std::filesystem::file_size(path_), damaged);
  {
    PrivacyLedger ledger = PrivacyLedger::open(path_);
    EXPECT_EQ(std::filesystem::file_size(path_), whole);
    ledger.charge(step_of(3, 1));
  }
  EXPECT_EQ(PrivacyLedger::read(path_).num_steps(), 4);
}

TEST_F(Ledger, HeadOlderThanTheLastLine_IsACrashNotAnAttack) {
  write_steps(3);
  const std::string old_head = read_file(path_.string() + ".head", 1000);
  {
    PrivacyLedger ledger = PrivacyLedger::open(path_);
    ledger.charge(step_of(3, 1));
  }
  std::ofstream(path_.string() + ".head") << old_head;
  EXPECT_EQ(PrivacyLedger::open(path_).num_steps(), 4);
  // Opening writes the present head.
  std::vector<std::string> all = lines();
  all.pop_back();
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("cut off"));
}

TEST_F(Ledger, ChangedNumber_IsDetected) {
  write_steps(5);
  std::vector<std::string> all = lines();
  all[2].replace(all[2].find("\"noise_multiplier\":1.0"), 22, "\"noise_multiplier\":9.0");
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("line 4: it does not follow on the line before it"));
}

TEST_F(Ledger, ChangedLastLine_IsDetected) {
  write_steps(5);
  std::vector<std::string> all = lines();
  all.back().replace(all.back().find("\"noise_multiplier\":1.0"), 22, "\"noise_multiplier\":9.0");
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("cut off or replaced"));
}

TEST_F(Ledger, ChangedHeader_IsDetected) {
  write_steps(2);
  std::vector<std::string> all = lines();
  all[0].replace(all[0].find("\"delta\":1e-05"), 13, "\"delta\":1e-02");
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("line 1: it is not what this program writes"));
  all[0].replace(all[0].find("\"delta\":1e-02"), 13, "\"delta\":0.01");
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("line 2: it does not follow"));
}

TEST_F(Ledger, RemovedMiddleLine_IsDetected) {
  write_steps(5);
  std::vector<std::string> all = lines();
  all.erase(all.begin() + 3);
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("line 4: it does not follow"));
}

TEST_F(Ledger, SwappedLines_AreDetected) {
  write_steps(5);
  std::vector<std::string> all = lines();
  std::swap(all[2], all[3]);
  overwrite(all);
  EXPECT_THAT(refusal(), testing::HasSubstr("line 3: it does not follow"));
}

TEST_F(Ledger, CutTail_IsDetected) {
  write_steps(5);
  std::vector<std::string> all = lines();
  for (std::size_t keep = all.size() - 1; keep >= 1; --keep) {
    overwrite(std::vector<std::string>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(keep)));
    EXPECT_THAT(refusal(), testing::HasSubstr("cut off")) << keep;
  }
  overwrite(std::string());
  EXPECT_THAT(refusal(), testing::HasSubstr("has no header"));
}

TEST_F(Ledger, LastLineWithoutItsNewline_IsDetected) {
  write_steps(5);
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 1);
  EXPECT_THAT(refusal(), testing::HasSubstr("cut off"));
}

TEST_F(Ledger, MissingHead_IsDetected) {
  write_steps(2);
  std::filesystem::remove(path_.string() + ".head");
  EXPECT_THROW(PrivacyLedger::read(path_), IoError);
  EXPECT_THROW(PrivacyLedger::open(path_), IoError);
}

TEST_F(Ledger, AnythingThatTheProgramWouldNotWrite_IsRefused) {
  write_steps(0);
  const std::string header = lines()[0];
  const std::string head = sha256_of(header);
  const std::string good = entry_line(step_of(0), head);
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string line = good;
    return line.replace(line.find(from), from.size(), to);
  };
  const std::string bad[] = {
      "",
      "{}",
      "[1]",
      "not json",
      good + " ",
      with("\"count\":1", "\"count\": 1"),                             // another spelling of the same
      with("\"count\":1", "\"count\":1,\"count\":0"),                  // a doubled key
      with("\"count\":1", "\"count\":1,\"refund\":5"),                 // an unknown key
      with("\"count\":1", "\"count\":-1"),                             // out of range
      with("\"count\":1", "\"count\":0.5"),                            // another type
      with("\"count\":1", "\"count\":\"1\""),                          //
      with("\"sampling_rate\":0.01", "\"sampling_rate\":1.01"),        //
      with("\"noise_multiplier\":1.0", "\"noise_multiplier\":-1.0"),   //
      with("\"noise_multiplier\":1.0", "\"noise_multiplier\":1e999"),  //
      with("\"sampler\":\"poisson\"", "\"sampler\":\"shuffle\""),      //
      with(",\"count\":1", ""),                                        // a missing key
      std::string(100'000, 'x'),                                       // longer than any line
  };
  EXPECT_EQ(entry_line(parse_entry_line(good, head), head), good);
  for (const std::string& line : bad) {
    overwrite(std::vector<std::string>{header, line});
    EXPECT_NE(refusal(), "not refused") << line.substr(0, 100);
    EXPECT_NE(refusal(), "open accepted it") << line.substr(0, 100);
  }
  for (const std::string& line : {std::string("{}"), std::string("x"), good}) {
    overwrite(std::vector<std::string>{line});
    EXPECT_THAT(refusal(), testing::HasSubstr("line 1")) << line;
  }
  std::string future = header;
  future.replace(future.find("\"version\":2"), 11, "\"version\":3");
  overwrite(std::vector<std::string>{future});
  EXPECT_THAT(refusal(), testing::HasSubstr("version 3"));
}

TEST_F(Ledger, OpenTwice_IsRefused) {
  write_steps(1);
  const PrivacyLedger first = PrivacyLedger::open(path_);
  try {
    PrivacyLedger::open(path_);
    FAIL() << "two processes could append";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("another process is using this directory"));
  }
  EXPECT_EQ(PrivacyLedger::read(path_).num_steps(), 1);
}

TEST_F(Ledger, ReadLedger_TakesNoCharges) {
  write_steps(1);
  PrivacyLedger ledger = PrivacyLedger::read(path_);
  EXPECT_THROW(ledger.charge(step_of(1)), InternalError);
}

TEST_F(Ledger, ImpossibleCharge_IsRefusedBeforeItIsWritten) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  EXPECT_THROW(ledger.charge({0, 0, "step", {1.5, 1.0, 1, Sampler::kPoisson}}), ConfigError);
  EXPECT_EQ(lines().size(), 1U);
}

TEST_F(Ledger, NotPrivateRun_HasNoFiniteEpsilon) {
  LedgerHeader header = small_header();
  header.is_private = false;
  header.not_private_because = "privacy.test_seed is set";
  PrivacyLedger ledger = PrivacyLedger::create(path_, header);
  ledger.charge(step_of(0));
  EXPECT_EQ(ledger.epsilon(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(ledger.epsilon_after(step_of(1).event), std::numeric_limits<double>::infinity());
}

TEST_F(Ledger, EpsilonAfter_IsABoundWithinThePlanAndExactAtItsEnd) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  const GaussianEvent next = step_of(0).event;
  for (std::int64_t charged : {0, 1, 7, 99, 437, 999}) {
    while (ledger.num_steps() < charged) ledger.charge(step_of(ledger.num_steps()));
    const GaussianEvent exact{0.01, 1.0, charged + 1};
    const GaussianEvent tenth_more{0.01, 1.0, charged + 1 + (charged + 1) / 10};
    const double after = ledger.epsilon_after(next);
    EXPECT_GE(after, epsilon_of({&exact, 1}, 1e-5, AccountantKind::kRdp)) << charged;
    EXPECT_LE(after, epsilon_of({&tenth_more, 1}, 1e-5, AccountantKind::kRdp)) << charged;
  }
  const GaussianEvent plan{0.01, 1.0, 1000};
  EXPECT_EQ(ledger.epsilon_after(next), epsilon_of({&plan, 1}, 1e-5, AccountantKind::kRdp));
}

TEST_F(Ledger, EpsilonBound_IsAboveEpsilonAndNeverAboveThePlan) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  EXPECT_EQ(ledger.epsilon_bound(), 0);
  const GaussianEvent plan{0.01, 1.0, 1000};
  for (std::int64_t step : {0, 13, 500}) {
    ledger.charge({step, 0, "step", {0.01, 1.0, 1 + step, Sampler::kPoisson}});
    EXPECT_GE(ledger.epsilon_bound(), ledger.epsilon());
    EXPECT_LE(ledger.epsilon_bound(), epsilon_of({&plan, 1}, 1e-5, AccountantKind::kRdp));
  }
}

// The plan ends at epsilon 2.1014 (RDP); with a target between two rounded numbers of steps the answer near the target
// must be the exact one, or a run would stop too early.
TEST_F(Ledger, EpsilonAfter_IsExactWhereItDecides) {
  LedgerHeader header = small_header();
  const GaussianEvent affordable{0.01, 1.0, 930};
  header.target_epsilon = epsilon_of({&affordable, 1}, 1e-5, AccountantKind::kRdp);
  PrivacyLedger ledger = PrivacyLedger::create(path_, header);
  ledger.charge({0, 0, "step", {0.01, 1.0, 929, Sampler::kPoisson}});
  EXPECT_EQ(ledger.epsilon_after(step_of(1).event), header.target_epsilon);
  ledger.charge(step_of(1));
  EXPECT_GT(ledger.epsilon_after(step_of(2).event), header.target_epsilon);
}

TEST_F(Ledger, EpsilonAfter_CountsReleasesOutsideThePlan) {
  PrivacyLedger ledger = PrivacyLedger::create(path_, small_header());
  ledger.charge({0, 0, "mean image", {1.0, 2.0, 1, Sampler::kNone}});
  const GaussianEvent histogram{1.0, 3.0, 1, Sampler::kNone};
  const GaussianEvent all[] = {{1.0, 2.0, 1, Sampler::kNone}, histogram};
  EXPECT_EQ(ledger.epsilon_after(histogram), epsilon_of(all, 1e-5, AccountantKind::kRdp));
  // More steps than planned are charged in full.
  ledger.charge({0, 0, "step", {0.01, 1.0, 1500, Sampler::kPoisson}});
  const GaussianEvent more[] = {{1.0, 2.0, 1, Sampler::kNone}, {0.01, 1.0, 1501}};
  EXPECT_EQ(ledger.epsilon_after(step_of(2).event), epsilon_of(more, 1e-5, AccountantKind::kRdp));
}

TEST(LedgerFile, WhoseOpeningHangs_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_ledger");
  if (!folder.can_hold()) GTEST_SKIP() << "the file system takes no leases";
  std::ofstream(folder.path() / "ledger.jsonl.head") << "read first";
  EXPECT_EXIT(test::hang_in([&] { PrivacyLedger::read(folder.held_file("ledger.jsonl")); }),
              testing::ExitedWithCode(71), "opening .*/ledger.jsonl has not returned");
}

TEST(LedgerFile, ThatIsAPipe_IsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("piped_ledger");
  EXPECT_EXIT(test::hang_in([&] { PrivacyLedger::read(folder.file("ledger.jsonl")); }), testing::ExitedWithCode(74),
              "cannot read .*/ledger.jsonl: it is a pipe");
}

}  // namespace
}  // namespace dpldm::accounting
