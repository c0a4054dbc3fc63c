#!/usr/bin/env python3
"""Writes golden.safetensors: trajectories of diffusers' schedulers for the C++ samplers to match.

Needs torch, diffusers and safetensors (made with 2.11, 0.42 and 0.7). The denoiser is a fixed function of (x, t) that C++
computes too, so that no network is needed; the noise is stored, so that no generator has to agree.

    make_golden.py            # writes beside itself
"""

import pathlib

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file

SHAPE = (2, 3, 4, 5)
LATENT = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0155,
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}

# name: (class, config, steps, eta or, for Euler, churn)
CASES = {
    "ddim_eta0": (DDIMScheduler, {"beta_schedule": "scaled_linear"}, 50, 0.0),
    "ddim_eta1": (DDIMScheduler, {"beta_schedule": "scaled_linear"}, 50, 1.0),
    "ddim_alpha_one": (DDIMScheduler, {"beta_schedule": "linear", "set_alpha_to_one": True, "steps_offset": 0}, 30, 0.0),
    "ddim_v_cosine_trailing": (
        DDIMScheduler,
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        25,
        0.5,
    ),
    "ddim_sample_linspace": (
        DDIMScheduler,
        {"beta_schedule": "linear", "prediction_type": "sample", "timestep_spacing": "linspace"},
        40,
        0.0,
    ),
    "ddpm": (DDPMScheduler, {"beta_schedule": "scaled_linear", "steps_offset": 0}, 50, None),
    "ddpm_v": (DDPMScheduler, {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}, 33, None),
    "dpmpp": (DPMSolverMultistepScheduler, {"beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}, 20, None),
    "dpmpp_leading_v": (
        DPMSolverMultistepScheduler,
        {"beta_schedule": "scaled_linear", "timestep_spacing": "leading", "prediction_type": "v_prediction"},
        20,
        None,
    ),
    "dpmpp_v_cosine": (
        DPMSolverMultistepScheduler,
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        12,
        None,
    ),
    "euler": (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear", "timestep_spacing": "leading"}, 30, None),
    "euler_churn": (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear", "timestep_spacing": "leading"}, 20, 5.0),
    "euler_v": (
        EulerDiscreteScheduler,
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading", "prediction_type": "v_prediction"},
        25,
        None,
    ),
    "euler_linspace": (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}, 30, None),
    "euler_linspace_v": (
        EulerDiscreteScheduler,
        {"beta_schedule": "scaled_linear", "timestep_spacing": "linspace", "prediction_type": "v_prediction"},
        13,
        None,
    ),
    "euler_trailing": (EulerDiscreteScheduler, {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}, 20, None),
    "ddim_clip": (DDIMScheduler, {"beta_schedule": "scaled_linear", "clip_sample": True}, 20, 0.5),
    "ddim_clip_v": (
        DDIMScheduler,
        {"beta_schedule": "scaled_linear", "clip_sample": True, "clip_sample_range": 0.6, "prediction_type": "v_prediction"},
        20,
        0.0,
    ),
    "ddpm_clip": (DDPMScheduler, {"beta_schedule": "scaled_linear", "clip_sample": True, "clip_sample_range": 0.6}, 20, None),
}


def denoiser(x, t):
    """Nonlinear in x, different for each t."""
    return torch.tanh(0.7 * x + 0.3 * float(torch.cos(torch.tensor(0.01 * float(t), dtype=torch.float64)))) - 0.2 * x


class StoredNoise:
    """Stands in for torch's generator inside a scheduler module: hands out stored tensors in order."""

    def __init__(self, noise):
        self.noise = list(noise)

    def __call__(self, *args, **kwargs):
        return self.noise.pop(0).clone()


def run(name, scheduler_class, config, num_steps, eta):
    settings = {k: v for k, v in {**LATENT, **config}.items() if k in scheduler_class.__init__.__wrapped__.__code__.co_varnames}
    scheduler = scheduler_class(**settings)
    scheduler.set_timesteps(num_steps)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    start = torch.randn(SHAPE, generator=generator)
    noises = torch.randn((num_steps, *SHAPE), generator=generator)
    euler = scheduler_class is EulerDiscreteScheduler
    x = start * scheduler.init_noise_sigma if euler else start.clone()
    module = __import__(scheduler_class.__module__, fromlist=["x"])
    for i, t in enumerate(scheduler.timesteps):
        stored = StoredNoise([noises[i]])
        original = module.randn_tensor
        module.randn_tensor = stored
        arguments = {"s_churn" if euler else "eta": eta} if eta is not None else {}
        seen = scheduler.scale_model_input(x, t) if euler else x
        x = scheduler.step(denoiser(seen, t), t, x, **arguments).prev_sample
        module.randn_tensor = original
    # Euler's timesteps have fractions where it spaces them evenly.
    result = {"start": start, "result": x, "timesteps": scheduler.timesteps.to(torch.float32 if euler else torch.int64),
              "alphas_cumprod": scheduler.alphas_cumprod.to(torch.float32)}
    if eta or scheduler_class is DDPMScheduler:
        result["noise"] = noises
    return {f"{name}.{key}": value.contiguous() for key, value in result.items()}


def main():
    tensors = {}
    for name, case in CASES.items():
        tensors.update(run(name, *case))
    save_file(tensors, pathlib.Path(__file__).parent / "golden.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
