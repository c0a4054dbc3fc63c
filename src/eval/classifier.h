// A small convolutional network that learns to tell classes apart, and gives features.
//
// It measures other people's images, so everything about it is fixed beforehand: one architecture, one recipe, the
// number of images shown, no choice of epoch or weights by looking at a test set. Three blocks of 3x3 convolution (32,
// 64, 128 channels), batch norm, ReLU and 2x2 max-pooling; pooling to 3x3; dropout; one linear layer. AdamW with a
// one-cycle rate, shifts by a pixel, no flips (wrong for digits and letters).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace dpldm::eval {

// Images with their classes.
struct LabelledImages {
  at::Tensor images_NCHW;  // uint8
  at::Tensor labels_N;     // int64, 0 <= label < num_classes
  std::int64_t num_classes = 0;
};

struct ClassifierRecipe {
  std::int64_t images_shown = 0;  // in all, with repetition; whole epochs are not needed
  std::int64_t batch_size = 128;
  double peak_learning_rate = 4e-3;
  double weight_decay = 0.05;
  double dropout = 0.3;
  double label_smoothing = 0.05;

  // Six epochs, and 60,000 images at least: what small sets need to converge.
  static ClassifierRecipe for_num_images(std::int64_t num_images);
  std::int64_t num_steps(std::int64_t num_images) const;
};

class Classifier {
 public:
  // Trains on `data` and nothing else. Deterministic in `seed` for a given number of threads: no generator is shared,
  // so several may train at once, each in its own thread. Computes in bfloat16 with fp32 weights. Throws ConfigError
  // when there are fewer than two images or two classes, or when an image has fewer than eight pixels on a side.
  // `after_step`, if given, is called after each step.
  static Classifier train(const LabelledImages& data, const ClassifierRecipe& recipe, std::uint64_t seed,
                          const std::function<void()>& after_step = {});

  Classifier(Classifier&&) noexcept;
  ~Classifier();

  // The most likely class of each image, int64 [N].
  at::Tensor predict(const at::Tensor& images_NCHW) const;
  // Fraction of `data` whose class is predicted.
  double accuracy(const LabelledImages& data) const;
  // The last block's activations averaged over positions, fp32 [N, 128].
  at::Tensor features(const at::Tensor& images_NCHW) const;

 private:
  struct Network;
  explicit Classifier(std::unique_ptr<Network> network);
  std::unique_ptr<Network> network_;
};

}  // namespace dpldm::eval
