// A file that does not answer ends the process from its opening on, not only while it is read or written.
#include "support/hanging_file.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"

namespace dpldm {
namespace {

using testing::ExitedWithCode;

TEST(HangingFile, ThatIsRead_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_read");
  if (!folder.can_hold()) GTEST_SKIP() << "the file system takes no leases";
  EXPECT_EXIT(test::hang_in([&] { sha256_of_file(folder.held_file("f")); }), ExitedWithCode(71),
              "opening .*/f has not returned");
}

TEST(RegularFile, IsWhatAReaderWants_AndAPipeIsRefusedBeforeItIsOpened) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("piped_read");
  EXPECT_EXIT(test::hang_in([&] { sha256_of_file(folder.file("f")); }), ExitedWithCode(74),
              "cannot read .*/f: it is a pipe, a socket or a device, not a file");
  EXPECT_EXIT(test::hang_in([&] { read_file(folder.file("f"), 10); }), ExitedWithCode(74), "/f: it is a pipe");
  EXPECT_EXIT(test::hang_in([&] { sha256_of_file("/dev/zero"); }), ExitedWithCode(74), "or a device, not a file");
}

TEST(RegularFile, HasASize_AndFoldersAndWhatIsMissingAreNamed) {
  const test::HangingFolder folder("sizes");
  write_file_atomically(folder.path() / "f", "seven b");
  EXPECT_EQ(require_regular_file(folder.path() / "f"), 7U);
  const auto refusal = [](const std::filesystem::path& path) -> std::string {
    try {
      require_regular_file(path);
    } catch (const IoError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(folder.path()), "cannot read " + folder.path().string() + ": it is a folder, not a file");
  EXPECT_EQ(refusal(folder.path() / "no"),
            "cannot read " + (folder.path() / "no").string() + ": No such file or directory");
}

TEST(HangingFile, ThatIsWritten_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_write");
  EXPECT_EXIT(test::hang_in([&] {
                folder.file(temporary_name_for("f").string());
                write_file_atomically(folder.path() / "f", "text");
              }),
              ExitedWithCode(71), "writing .*/f.tmp-[0-9]+ has not returned");
}

TEST(HangingFile, ThatIsAppendedTo_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_append");
  EXPECT_EXIT(test::hang_in([&] { const DurableLog log(folder.file("f")); }), ExitedWithCode(71),
              "opening .*/f has not returned");
}

}  // namespace
}  // namespace dpldm
