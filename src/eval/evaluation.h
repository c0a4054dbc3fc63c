// How good synthetic images are: the accuracy on real images of classifiers that saw only the synthetic ones, and a
// distance between the two sets in the features of a network that was trained on public images.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "eval/classifier.h"

namespace dpldm::eval {

struct EvaluationInput {
  LabelledImages samples;
  LabelledImages reference;                      // held-out real images
  std::optional<LabelledImages> feature_images;  // public; without them there is no distance
  ClassifierRecipe recipe;                       // of the classifiers; ClassifierRecipe::for_num_images(samples)
  // Of the feature network. It sees as many images as a classifier of 10,000, however many the public set has: as a
  // yardstick it has to be the same for everyone more than it has to be good.
  ClassifierRecipe feature_recipe = ClassifierRecipe::for_num_images(10'000);
  std::int64_t num_seeds = 3;
};

struct EvaluationResult {
  std::vector<double> accuracies;  // fraction of the reference, one per seed 0, 1, ...
  double mean_accuracy = 0;
  double accuracy_deviation = 0;  // of the sample, divided by n - 1; 0 for one seed
  std::optional<double> frechet_distance;
};

// Collective. The networks to train are dealt out over ranks and, on each rank, over `num_threads` threads of one
// core each, so the result depends on neither number. Every rank returns the same. Images and their shapes must agree
// between the sets; throws ConfigError otherwise.
EvaluationResult evaluate(const EvaluationInput& input, int num_threads, comm::Communicator& comm);

}  // namespace dpldm::eval
