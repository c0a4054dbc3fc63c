// What one pass of a network would multiply and remember, counted from shapes alone.
//
// A layer of a network without values (ShapesOnly) answers with the shape of its output and reports here what it would
// have done. The network's own forward pass drives the count, so it holds for whatever a configuration can say. Counts
// are of all rows that went in.
#pragma once

#include <cstdint>
#include <unordered_map>

#include <ATen/core/Tensor.h>

namespace dpldm::model {

// What a layer would do with its input.
struct LayerWork {
  double multiply_adds = 0;           // forward; the gradient with respect to the input takes as many again
  double gradient_multiply_adds = 0;  // of the per-record gradient of its weight, where that is trained
  bool trained = false;
  bool output_is_kept = false;  // by what follows: an activation function, an attention
};

class ShapeTrace {
 public:
  // Layers of this thread report to it while it lives. One at a time.
  ShapeTrace();
  ~ShapeTrace();
  ShapeTrace(const ShapeTrace&) = delete;
  ShapeTrace& operator=(const ShapeTrace&) = delete;

  // To the thread's trace, if there is one. The backward pass reaches back to the first trained layer and no further:
  // what comes before it is counted forward only.
  static void layer(const LayerWork& work, const at::Tensor& input, const at::Tensor& output);
  // Scores, softmax and weighted sum of query [B, T, C] over `num_keys` keys; `fused` does not store the scores.
  static void attention(const at::Tensor& query, std::int64_t num_keys, std::int64_t num_heads, bool fused);

  double forward_multiply_adds() const { return forward_; }
  double backward_multiply_adds() const { return backward_; }
  // Bytes that the backward pass needs; each tensor once, however many layers need it.
  double kept_bytes() const { return kept_; }

 private:
  void keep(const at::Tensor& tensor);

  double forward_ = 0;
  double backward_ = 0;
  double kept_ = 0;
  bool backward_reaches_ = false;
  // Holds the tensors, so that another one cannot take the place of one that was counted.
  std::unordered_map<const void*, at::Tensor> counted_;
};

}  // namespace dpldm::model
