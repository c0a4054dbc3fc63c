// The layers with parameters that networks are built from.
//
// Each is an ordinary differentiable layer until `attach` gives it a tap; then its backward pass reports to the tap
// instead of forming weight gradients (gradient_tap.h). Weights are held in fp32 and used in the type of the input:
// with a bf16 input the layer computes in bf16 from a cast copy that is renewed whenever the weight has changed. Names
// of parameters follow diffusers ("weight", "bias").
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/torch.h"
#include "model/gradient_tap.h"

namespace dpldm::model {

// While one is alive, layers that this thread makes have shapes but no values (they are on the meta device): networks
// of any size can be built to be counted.
class ShapesOnly {
 public:
  ShapesOnly();
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

 private:
  bool outer_;
};

// What all layers share: the parameters, the tap, and the cast copies.
class Layer : public torch::nn::Module {
 public:
  // From now on the trained ones among weight and bias report to `tap`, which must outlive the layer's use. `name` is
  // the layer's full name in the network.
  void attach(GradientTap* tap, const std::string& name, bool train_weight, bool train_bias);
  // An ordinary layer again.
  void detach_tap();
  // Replaces the weight's (or the bias's) values by `values`, of its shape; kept in fp32. Not while a tap is attached.
  // The parameter is another tensor afterwards.
  void set_values(bool is_weight, const at::Tensor& values);
  // nullptr while no tap is attached.
  const TapSite* site() const { return site_.get(); }

  at::Tensor weight;
  at::Tensor bias;  // undefined when the layer has none

 protected:
  explicit Layer(LayerKind kind) : kind_(kind) {}
  // Lets a layer add what its kind needs (stride, groups) to the site.
  virtual void describe(TapSite&) const {}

  bool tapped() const { return site_ != nullptr; }
  // Whether this call goes through the tapped form.
  bool recording() const { return tapped() && at::GradMode::is_enabled(); }
  // A trained parameter: autograd calls the tapped backward pass only if some input requires a gradient, and the input
  // of the network's first trained layer does not.
  const at::Tensor& anchor() const { return site_->weight.defined() ? site_->weight : site_->bias; }
  // The weight (or bias) in `dtype`. Differentiable when no tap is attached; a cached copy otherwise.
  at::Tensor weight_in(at::ScalarType dtype);
  at::Tensor bias_in(at::ScalarType dtype);
  // The type in which a norm's parameters meet an input `x`: kernels for the CPU take fp32 parameters with bf16 inputs,
  // and then keep their statistics in fp32 too; others want one type.
  at::ScalarType norm_type(const at::Tensor& x) const;

  LayerKind kind_;
  GradientTap* tap_ = nullptr;
  std::shared_ptr<TapSite> site_;

 private:
  struct CastCopy {
    at::Tensor tensor;
    std::int64_t version = -1;
    const void* storage = nullptr;
  };
  at::Tensor in_type(const at::Tensor& parameter, CastCopy& copy, at::ScalarType dtype);
  CastCopy weight_copy_;
  CastCopy bias_copy_;
};

// A layer that multiplies by a matrix, and may carry a low-rank pair beside it (low_rank.h): y += scale B (A x). The
// factors are layers themselves, registered as diffusers and peft name them ("lora_A", "lora_B").
class MatrixLayer : public Layer {
 public:
  virtual at::Tensor forward(const at::Tensor& x) = 0;

  // Whether there is a rule for a pair: a Linear, or a 1x1 convolution.
  virtual bool takes_low_rank_pair() const = 0;
  // Both factors are zero: A [rank, in], B [out, rank]. Throws InternalError where no pair can be, or is already.
  void add_low_rank_pair(std::int64_t rank, double scale);
  // weight += scale B A, and the pair is gone.
  void merge_low_rank_pair();
  // nullptr without a pair.
  MatrixLayer* factor_a() const { return a_.get(); }
  MatrixLayer* factor_b() const { return b_.get(); }
  // Whether a tap waits for this layer or for a factor of its pair.
  bool reports() const;

 protected:
  using Layer::Layer;
  // A layer of the same kind without a bias.
  virtual std::shared_ptr<MatrixLayer> make_factor(std::int64_t in, std::int64_t out) const = 0;
  // y, the layer's own output for `x`, with the pair's added where there is one.
  at::Tensor with_pair(const at::Tensor& y, const at::Tensor& x) const;

 private:
  std::shared_ptr<MatrixLayer> a_;
  std::shared_ptr<MatrixLayer> b_;
  double scale_ = 0;
};

// y = x W^T + b on the last axis. weight [out, in].
class Linear : public MatrixLayer {
 public:
  Linear(std::int64_t in_features, std::int64_t out_features, bool with_bias = true);
  at::Tensor forward(const at::Tensor& x) override;
  bool takes_low_rank_pair() const override { return true; }

 protected:
  std::shared_ptr<MatrixLayer> make_factor(std::int64_t in, std::int64_t out) const override;
};

// x [B, in, H, W]; weight [out, in / groups, kernel, kernel].
class Conv2d : public MatrixLayer {
 public:
  Conv2d(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel, std::int64_t stride = 1,
         std::int64_t padding = 0, std::int64_t groups = 1, bool with_bias = true);
  at::Tensor forward(const at::Tensor& x) override;
  bool takes_low_rank_pair() const override;

 protected:
  void describe(TapSite& site) const override;
  std::shared_ptr<MatrixLayer> make_factor(std::int64_t in, std::int64_t out) const override;

 private:
  std::int64_t stride_;
  std::int64_t padding_;
  std::int64_t groups_;
};

// Statistics over each group of channels of one image, in fp32 whatever the input's type where norm_type allows.
class GroupNorm : public Layer {
 public:
  GroupNorm(std::int64_t num_groups, std::int64_t channels, double eps);
  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t num_groups_;
  double eps_;
};

// Statistics over the last axis.
class LayerNorm : public Layer {
 public:
  explicit LayerNorm(std::int64_t channels, double eps = 1e-5);
  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t channels_;
  double eps_;
};

// ids int64 [B, T] -> [B, T, dimension] in `dtype`.
class Embedding : public Layer {
 public:
  Embedding(std::int64_t num_embeddings, std::int64_t dimension);
  at::Tensor forward(const at::Tensor& ids, at::ScalarType dtype);
};

}  // namespace dpldm::model
