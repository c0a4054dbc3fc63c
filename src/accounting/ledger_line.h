// The lines of ledger.jsonl as text, and back.
//
// There is exactly one text for a header or an entry: keys in a fixed order, numbers in their shortest exact form. A
// line that reads well but is not that text is refused, so nothing unknown, doubled or out of range can hide in one.
#pragma once

#include <string>

#include "accounting/ledger.h"

namespace dpldm::accounting {

std::string header_line(const LedgerHeader& header);
std::string entry_line(const LedgerEntry& entry, const std::string& previous_sha256);

// Throw IoError with the reason (without the file's name) for anything that the functions above would not write; the
// second one also when the line does not follow on `previous_sha256`.
LedgerHeader parse_header_line(const std::string& line);
LedgerEntry parse_entry_line(const std::string& line, const std::string& previous_sha256);

}  // namespace dpldm::accounting
