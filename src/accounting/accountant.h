// How much privacy a list of releases costs.
//
// An accountant is a function of the events; it keeps nothing. All answers are upper bounds (for PRV: the upper end of
// its interval). Plain C++, usable on its own. Formulas and sources: docs/privacy.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dpldm::accounting {

enum class AccountantKind { kPld, kRdp, kPrv };
enum class Neighbouring { kAddRemove, kZeroOut, kReplaceOne };
enum class Sampler { kPoisson, kNone };  // kNone: every record in every step, no amplification

// `count` releases of a Gaussian mechanism with noise `noise_multiplier` times the sensitivity, each on a Poisson
// sample of rate `sampling_rate`. With Sampler::kNone the rate does not matter and `count` is how often one record
// takes part: once per epoch where data are shuffled.
struct GaussianEvent {
  double sampling_rate = 0;
  double noise_multiplier = 0;
  std::int64_t count = 0;
  Sampler sampler = Sampler::kPoisson;
};

// "pld", "rdp", "prv"; "add-remove", "zero-out", "replace-one"; "poisson", "none". The inverse functions throw
// ConfigError for another word.
std::string to_text(AccountantKind kind);
std::string to_text(Neighbouring neighbouring);
std::string to_text(Sampler sampler);
AccountantKind accountant_from(const std::string& text);
Neighbouring neighbouring_from(const std::string& text);
Sampler sampler_from(const std::string& text);

// The epsilon at `delta` of all events together; infinity when there is no finite one (noise multiplier 0). Throws
// ConfigError outside the domain: a rate outside [0, 1], a negative multiplier or count, more than 10^12 steps, a delta
// outside (0, 1) or, for PLD and PRV, below 1e-12; and for PRV when it would need more memory than is reasonable.
double epsilon_of(std::span<const GaussianEvent> events, double delta, AccountantKind kind,
                  Neighbouring neighbouring = Neighbouring::kAddRemove);

// Throws ConfigError where `epsilon`, that of `event` and others, is infinite although the event adds noise: then the
// accountant's numbers do not reach, which is no finding about its privacy. Says what to ask instead.
void require_accounted(double epsilon, const GaussianEvent& event, AccountantKind kind);

// The smallest noise multiplier (to 1e-4, never below the true one) with which `steps` steps at rate `sampling_rate`,
// after the events in `already_spent`, stay within `epsilon` at `delta`. Throws ConfigError when no multiplier can, or
// the accountant cannot tell; so do the two that follow.
double calibrate_noise_multiplier(double sampling_rate, std::int64_t steps, double epsilon, double delta,
                                  AccountantKind kind, Neighbouring neighbouring = Neighbouring::kAddRemove,
                                  std::span<const GaussianEvent> already_spent = {});

// The largest number of further steps that stays within `epsilon` at `delta`; 0 when not even one does. Throws
// ConfigError when any number does (rate 0).
std::int64_t calibrate_steps(double sampling_rate, double noise_multiplier, double epsilon, double delta,
                             AccountantKind kind, Neighbouring neighbouring = Neighbouring::kAddRemove,
                             std::span<const GaussianEvent> already_spent = {});

// The largest sampling rate (to a relative 1e-4, never above the true one) with which `steps` further steps stay within
// `epsilon` at `delta`; at most 1. Throws ConfigError when no rate above 1e-9 does.
double calibrate_sampling_rate(double noise_multiplier, std::int64_t steps, double epsilon, double delta,
                               AccountantKind kind, Neighbouring neighbouring = Neighbouring::kAddRemove,
                               std::span<const GaussianEvent> already_spent = {});

// min(1e-5, 1 / (N ln N)). Throws ConfigError for N < 1.
double default_delta(std::int64_t num_records);

}  // namespace dpldm::accounting
