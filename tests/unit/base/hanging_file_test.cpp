// A file that does not answer ends the process from its opening on, not only while it is read or written.
#include "support/hanging_file.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/digest.h"

namespace dpldm {
namespace {

using testing::ExitedWithCode;

TEST(HangingFile, ThatIsRead_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_read");
  EXPECT_EXIT(test::hang_in([&] { sha256_of_file(folder.file("f")); }), ExitedWithCode(71),
              "opening .*/f has not returned");
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
