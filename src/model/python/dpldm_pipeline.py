"""DPLDMPipeline: sampling from the models that no pipeline of diffusers fits, class-conditional ones above all.

dpldm writes this file into such a model's directory.

    pipeline = DiffusionPipeline.from_pretrained("MODEL", trust_remote_code=True)
    images = pipeline(class_labels=[0, 1, 2]).images
"""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput


class DPLDMPipeline(DiffusionPipeline):
    _optional_components = ["vae", "vqvae", "text_encoder", "bert", "tokenizer"]

    def __init__(self, unet, scheduler, vae=None, vqvae=None, text_encoder=None, bert=None, tokenizer=None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae, vqvae=vqvae, text_encoder=text_encoder, bert=bert,
                              tokenizer=tokenizer)

    def _encode(self, texts):
        encoder = self.text_encoder or self.bert
        if encoder is None or self.tokenizer is None:
            raise ValueError("the model takes no prompts")
        ids = self.tokenizer(texts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
                             return_tensors="pt").input_ids
        return {"encoder_hidden_states": encoder(ids.to(encoder.device))[0]}

    def _encode_classes(self, labels):
        """Rows of the class table that is folded into the U-Net as a linear map of one-hot tokens, or plain labels."""
        if getattr(self.unet.config, "encoder_hid_dim", None):
            rows = torch.nn.functional.one_hot(labels, self.unet.config.encoder_hid_dim)
            return {"encoder_hidden_states": rows.unsqueeze(1).to(self.unet.dtype)}
        return {"class_labels": labels}

    def _conditions(self, class_labels, prompt, guidance_scale):
        """What the U-Net is told beside the time, and the same for "nothing in particular" where guidance needs it."""
        if prompt is not None:
            texts = [prompt] if isinstance(prompt, str) else list(prompt)
            return self._encode(texts), self._encode([""] * len(texts)) if guidance_scale != 1 else None
        if class_labels is None:
            return {}, None
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self.unet.device).flatten()
        if guidance_scale == 1:
            return self._encode_classes(labels), None
        if not getattr(self.unet.config, "encoder_hid_dim", None):
            raise ValueError("the model has no null class to guide away from")
        null = torch.full_like(labels, self.unet.config.encoder_hid_dim - 1)  # the last row
        return self._encode_classes(labels), self._encode_classes(null)

    @torch.no_grad()
    def __call__(self, class_labels=None, prompt=None, batch_size=1, num_inference_steps=50, guidance_scale=1.0, eta=0.0,
                 generator=None, latents=None, output_type="pil", return_dict=True):
        taken, answered = self.unet.config.in_channels, self.unet.config.out_channels
        if taken != answered:
            raise ValueError(f"the U-Net takes {taken} channels and answers {answered}: its condition is an image, "
                             "which this pipeline does not take")
        condition, null = self._conditions(class_labels, prompt, guidance_scale)
        for value in condition.values():
            batch_size = value.shape[0]
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        if latents is None:
            latents = torch.randn((batch_size, self.unet.config.in_channels, height, width), generator=generator)
        latents = latents.to(self.unet.device, self.unet.dtype) * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(num_inference_steps)
        keywords = self.scheduler.step.__code__.co_varnames
        extra = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in keywords}
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(latents, t)
            prediction = self.unet(scaled, t, **condition, **self._absent_context(condition)).sample
            if null is not None:
                away = self.unet(scaled, t, **null).sample
                prediction = away + guidance_scale * (prediction - away)
            latents = self.scheduler.step(prediction, t, latents, **extra).prev_sample
        return self._decode(latents, output_type, return_dict)

    def _absent_context(self, condition):
        """UNet2DConditionModel wants to be told that there is no context."""
        takes_context = hasattr(self.unet.config, "cross_attention_dim")
        return {"encoder_hidden_states": None} if takes_context and "encoder_hidden_states" not in condition else {}

    def _decode(self, latents, output_type, return_dict):
        autoencoder = self.vae or self.vqvae
        if output_type == "latent" or autoencoder is None:
            images = latents
        else:
            images = autoencoder.decode((latents / autoencoder.config.scaling_factor).to(autoencoder.dtype)).sample
            images = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
