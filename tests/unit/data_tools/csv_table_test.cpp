#include "data_tools/csv_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace dpldm::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string complaint_about(const std::string& text) {
  try {
    parse_csv(text, "x.csv");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(CsvTable, QuotedFields_MayHoldCommasQuotesAndLineBreaks) {
  const CsvTable table = parse_csv("file,caption\r\na.png,\"one, \"\"two\"\"\nthree\"\r\nb.png,\n", "x.csv");
  EXPECT_THAT(table.header, ElementsAre("file", "caption"));
  ASSERT_EQ(table.rows.size(), 2U);
  EXPECT_THAT(table.rows[0], ElementsAre("a.png", "one, \"two\"\nthree"));
  EXPECT_THAT(table.rows[1], ElementsAre("b.png", ""));
}

TEST(CsvTable, ByteOrderMarkEmptyLinesAndMissingLastBreak_ChangeNothing) {
  const CsvTable table = parse_csv(
      "\xef\xbb\xbf"
      "file,label\n\n\na,1\n\nb,2",
      "x.csv");
  EXPECT_EQ(table.column("file"), 0U);
  EXPECT_EQ(table.column("label"), 1U);
  EXPECT_FALSE(table.column("caption"));
  EXPECT_EQ(table.rows.size(), 2U);
}

TEST(CsvTable, MalformedText_IsRefusedWithItsLine) {
  EXPECT_THAT(complaint_about("file,label\na,1\nb"), HasSubstr("x.csv, line 3: 1 fields; the header has 2"));
  EXPECT_THAT(complaint_about("file,label\n\"a,1\nb,2\n"), HasSubstr("line 2: a quote is opened and never closed"));
  EXPECT_THAT(complaint_about("file,label\n\"a\"b,1\n"), HasSubstr("line 2: text after a closing quote"));
  EXPECT_THAT(complaint_about("file,label\na\"b\",1\n"), HasSubstr("line 2: a quote inside a field"));
}

TEST(CsvTable, EmptyText_HasNoColumns) {
  const CsvTable table = parse_csv("", "x.csv");
  EXPECT_TRUE(table.header.empty());
  EXPECT_TRUE(table.rows.empty());
}

}  // namespace
}  // namespace dpldm::tools
