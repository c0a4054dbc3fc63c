#include "eval/evaluation.h"

#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>

#include <fmt/format.h>

#include "base/error.h"
#include "base/progress.h"
#include "base/torch.h"
#include "eval/frechet.h"

namespace dpldm::eval {
namespace {

constexpr std::uint64_t kFeatureSeed = 0;

// A network to train and the number that comes out of it.
struct Job {
  std::int64_t num_steps = 0;
  std::function<double(const std::function<void()>& after_step)> run;
};

void require_same_shape(const LabelledImages& a, const LabelledImages& b, const char* what) {
  const at::IntArrayRef left = a.images_NCHW.sizes().slice(1);
  const at::IntArrayRef right = b.images_NCHW.sizes().slice(1);
  if (left != right) {
    throw ConfigError(
        fmt::format("the samples are {}x{}x{} (channels, height, width) and the {} images {}x{}x{}; they must be alike",
                    left[0], left[1], left[2], what, right[0], right[1], right[2]));
  }
}

void check(const EvaluationInput& input) {
  if (input.num_seeds < 1) throw ConfigError(fmt::format("seeds is {}; it must be at least 1", input.num_seeds));
  require_same_shape(input.samples, input.reference, "reference");
  if (input.samples.num_classes != input.reference.num_classes) {
    throw ConfigError(fmt::format("the samples have {} classes and the reference {}; they must be the same classes",
                                  input.samples.num_classes, input.reference.num_classes));
  }
  if (input.feature_images) require_same_shape(input.samples, *input.feature_images, "public");
}

double distance_in_public_features(const EvaluationInput& input, const std::function<void()>& after_step) {
  const Classifier network = Classifier::train(*input.feature_images, input.feature_recipe, kFeatureSeed, after_step);
  return frechet_distance(summarise(network.features(input.samples.images_NCHW)),
                          summarise(network.features(input.reference.images_NCHW)));
}

std::vector<Job> jobs_of(const EvaluationInput& input) {
  std::vector<Job> jobs;
  const std::int64_t num_samples = input.samples.images_NCHW.size(0);
  for (std::int64_t seed = 0; seed < input.num_seeds; ++seed) {
    jobs.push_back({input.recipe.num_steps(num_samples), [&input, seed](const auto& after_step) {
                      const auto key = static_cast<std::uint64_t>(seed);
                      return Classifier::train(input.samples, input.recipe, key, after_step).accuracy(input.reference);
                    }});
  }
  if (input.feature_images) {
    jobs.push_back({input.feature_recipe.num_steps(input.feature_images->images_NCHW.size(0)),
                    [&input](const auto& after_step) { return distance_in_public_features(input, after_step); }});
  }
  return jobs;
}

// Runs this rank's jobs, those with number % comm.size() == rank, on threads that compute with one core each.
std::vector<double> run_jobs(const std::vector<Job>& jobs, int num_threads, comm::Communicator& comm) {
  std::vector<std::size_t> mine;
  std::int64_t total_steps = 0;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    if (static_cast<int>(j) % comm.size() != comm.rank()) continue;
    mine.push_back(j);
    total_steps += jobs[j].num_steps;
  }
  std::vector<double> results(jobs.size(), 0.0);
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;  // guards what follows
  std::exception_ptr failure;
  std::int64_t steps_done = 0;
  Progress progress("evaluate", total_steps, "step", comm.is_root());
  const auto work = [&] {
    at::set_num_threads(1);  // of this thread: OpenMP keeps the number per thread
    const auto after_step = [&] {
      const std::lock_guard lock(mutex);
      progress.update(++steps_done);
    };
    for (std::size_t i = next++; i < mine.size(); i = next++) {
      try {
        results[mine[i]] = jobs[mine[i]].run(after_step);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    }
  };
  const int threads_before = at::get_num_threads();
  std::vector<std::thread> threads;
  for (int t = 0; t < std::min(num_threads, static_cast<int>(mine.size())); ++t) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  at::set_num_threads(threads_before);
  if (failure) std::rethrow_exception(failure);
  return results;
}

}  // namespace

EvaluationResult evaluate(const EvaluationInput& input, int num_threads, comm::Communicator& comm) {
  check(input);
  std::vector<double> results = run_jobs(jobs_of(input), num_threads, comm);
  comm.all_reduce_sum(comm::host_buffer(std::span(results)));

  EvaluationResult evaluation;
  if (input.feature_images) {
    evaluation.frechet_distance = results.back();
    results.pop_back();
  }
  evaluation.accuracies = results;
  const auto n = static_cast<double>(results.size());
  evaluation.mean_accuracy = std::accumulate(results.begin(), results.end(), 0.0) / n;
  double squares = 0;
  for (const double accuracy : results)
    squares += (accuracy - evaluation.mean_accuracy) * (accuracy - evaluation.mean_accuracy);
  evaluation.accuracy_deviation = results.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  return evaluation;
}

}  // namespace dpldm::eval
