// The path of a step with one thing wrong: the ways in which implementations of DP-SGD are known to void their claim.
// An audit that cannot tell these from the real path proves nothing.
#pragma once

#include <memory>

#include "audit/mechanism_path.h"

namespace dpldm::test {

enum class Fault {
  kNone,               // the same parts put together rightly: must pass
  kNoClip,             // records enter as they are
  kBiasNormLeftOut,    // norms of the weight's gradient alone
  kDrawsClippedApart,  // each draw of a record is clipped as if it were one
  kActualBatchSize,    // the average is over the records that took part
  kNoiseOnEachRank,    // every rank adds noise of its own
  kNoiseOverRanks,     // the same, divided by the number of ranks
  kReplayedNoise,      // a step gets the noise of the one before
  kRecordOnTwoRanks,   // shards overlap by one record
  kLessNoise,          // 5 % too little
};

// Collective. `ledger` is rank 0's, null elsewhere.
std::unique_ptr<audit::MechanismPath> make_broken_path(Fault fault, comm::Communicator& comm,
                                                       const audit::MadeUpRecords& records,
                                                       accounting::PrivacyLedger* ledger,
                                                       const audit::PathOptions& options);

}  // namespace dpldm::test
