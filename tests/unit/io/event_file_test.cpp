#include "io/event_file.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "support/hanging_file.h"

namespace dpldm::io {
namespace {

std::string hex(const std::string& bytes) {
  static const char* const kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += kDigits[value >> 4];
    text += kDigits[value & 15];
  }
  return text;
}

std::filesystem::path fresh_directory() {
  const auto directory = std::filesystem::path(testing::TempDir()) / ("events_" + std::to_string(::getpid()));
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  return directory;
}

// The bytes that TensorBoard's own record writer makes of the same two events.
TEST(EventFile, HoldsTheBytesThatTensorBoardWrites) {
  const auto directory = fresh_directory();
  EventFile(directory, 1700000000).add(300, {{"loss", 0.1}, {"epsilon", 1.5}});
  EXPECT_EQ(hex(read_file(directory / "events.out.tfevents.1700000000", 1000)),
            "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d"
            "2b00000000000000861bc34b0900000040fc54d94110ac022a1d0a0e0a07657073696c6f6e150000c03f0a0b0a046c6f737315cdcc"
            "cc3de3cf9347");
}

TEST(EventFile, EventsCarryTheTimeOfTheStartAndNoneOfTheirOwn) {
  const auto directory = fresh_directory();
  {
    EventFile events(directory, 1700000000);
    events.add(1, {{"epsilon", 1.5}});
    events.add(1, {{"epsilon", 1.5}});
  }
  const std::string text = read_file(directory / "events.out.tfevents.1700000000", 1000);
  const std::string one = text.substr(text.size() - 45, 45);
  EXPECT_EQ(text.substr(text.size() - 90, 45), one);
}

TEST(EventFile, DirectoryThatIsNotThere_IsNamed) {
  try {
    EventFile("/nonexistent/run", 1);
    FAIL() << "accepted";
  } catch (const IoError& error) {
    EXPECT_STREQ(error.what(), "cannot write /nonexistent/run/events.out.tfevents.1");
  }
}

TEST(EventFile, FileSystemThatHangsWhenTheFileIsOpened_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_events");
  EXPECT_EXIT(test::hang_in([&] {
                folder.file("events.out.tfevents.7");
                const EventFile events(folder.path(), 7);
              }),
              testing::ExitedWithCode(71), "opening .*/events.out.tfevents.7 has not returned");
}

}  // namespace
}  // namespace dpldm::io
