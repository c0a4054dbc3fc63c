"""The networks of latent-diffusion under their original names, as formulas in plain torch: small enough to read, for comparison only.

Attribute names are the original's, because they are the keys of its checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels, eps=1e-5):
    return nn.GroupNorm(32, channels, eps=eps)


# --- U-Net -----------------------------------------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    def __init__(self, channels, emb, out, scale_shift, up=False, down=False):
        super().__init__()
        self.scale_shift, self.up, self.down = scale_shift, up, down
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(norm(out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def resample(self, x):
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x, emb):
        h = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        x = self.resample(x)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """qkv rows by heads (legacy) or in thirds (new order)."""

    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        qkv = self.qkv(self.norm(flat))
        d = c // self.heads
        if self.new_order:
            q, k, v = (part.reshape(b * self.heads, d, h * w) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * self.heads, 3 * d, h * w).split(d, dim=1)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * d**-0.25, k * d**-0.25), dim=-1)
        attended = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, h * w)
        return (flat + self.proj_out(attended)).reshape(b, c, h, w)


class CrossAttention(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x, context=None):
        context = x if context is None else context
        split = lambda t: t.reshape(*t.shape[:2], self.heads, -1).transpose(1, 2)
        q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        weight = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return self.to_out((weight @ v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels, context, heads, linear):
        super().__init__()
        self.linear = linear
        self.norm = norm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(channels, context, heads)])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x, context):
        b, c, h, w = x.shape
        y = self.norm(x)
        y = self.proj_in(y.flatten(2).transpose(1, 2)) if self.linear else self.proj_in(y).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            y = block(y, context)
        if self.linear:
            y = self.proj_out(y)
        y = y.transpose(1, 2).reshape(b, c, h, w)
        return x + (y if self.linear else self.proj_out(y))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Sequential):
    def forward(self, x, emb, context):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    def __init__(self, in_channels, out_channels, model_channels, num_res_blocks, attention_resolutions, channel_mult, num_heads=-1,
                 num_head_channels=-1, use_spatial_transformer=False, context_dim=None, use_scale_shift_norm=False, resblock_updown=False,
                 use_new_attention_order=False, use_linear_in_transformer=False, **_):
        super().__init__()
        m, emb = model_channels, 4 * model_channels
        self.width = m
        res = lambda a, b, **kw: ResBlock(a, emb, b, use_scale_shift_norm, **kw)
        heads = lambda c: c // num_head_channels if num_head_channels != -1 else num_heads

        def attention(c):
            if use_spatial_transformer:
                return SpatialTransformer(c, context_dim, heads(c), use_linear_in_transformer)
            return AttentionBlock(c, heads(c), use_new_attention_order)

        self.time_embed = nn.Sequential(nn.Linear(m, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, m, 3, padding=1))])
        skips, c = [m], m
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [res(c, m * mult)]
                c = m * mult
                if 2**level in attention_resolutions:
                    layers.append(attention(c))
                self.input_blocks.append(Stage(*layers))
                skips.append(c)
            if level + 1 < len(channel_mult):
                self.input_blocks.append(Stage(res(c, c, down=True) if resblock_updown else Downsample(c)))
                skips.append(c)
        self.middle_block = Stage(res(c, c), attention(c), res(c, c))
        self.output_blocks = nn.ModuleList([])
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = [res(c + skips.pop(), m * mult)]
                c = m * mult
                if 2**level in attention_resolutions:
                    layers.append(attention(c))
                if level and i == num_res_blocks:
                    layers.append(res(c, c, up=True) if resblock_updown else Upsample(c))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(m, out_channels, 3, padding=1))

    def forward(self, x, t, context=None):
        half = self.width // 2
        args = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)[None]
        emb = self.time_embed(torch.cat([torch.cos(args), torch.sin(args)], dim=-1))
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)


# --- first stages ----------------------------------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = norm(a, 1e-6), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = norm(b, 1e-6), nn.Conv2d(b, b, 3, padding=1)
        if a != b:
            self.nin_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (f(y).flatten(2) for f in (self.q, self.k, self.v))
        weight = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, dim=-1)
        return x + self.proj_out((v @ weight.transpose(1, 2)).reshape(b, c, h, w))


class Named(nn.Module):
    """An attribute holder."""


def middle(c):
    mid = Named()
    mid.block_1, mid.attn_1, mid.block_2 = ResnetBlock(c, c), AttnBlock(c), ResnetBlock(c, c)
    return mid


def run_middle(mid, x):
    return mid.block_2(mid.attn_1(mid.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, attn_resolutions, in_channels, resolution, z_channels, double_z, **_):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        c = ch
        for i, mult in enumerate(ch_mult):
            level = Named()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks):
                level.block.append(ResnetBlock(c, ch * mult))
                c = ch * mult
                if resolution // 2**i in attn_resolutions:
                    level.attn.append(AttnBlock(c))
            if i + 1 < len(ch_mult):
                level.downsample = Named()
                level.downsample.conv = nn.Conv2d(c, c, 3, stride=2)
            self.down.append(level)
        self.mid = middle(c)
        self.norm_out = norm(c, 1e-6)
        self.conv_out = nn.Conv2d(c, 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            for j, block in enumerate(level.block):
                x = block(x)
                if len(level.attn):
                    x = level.attn[j](x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.norm_out(run_middle(self.mid, x))))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, attn_resolutions, out_ch, resolution, z_channels, **_):
        super().__init__()
        c = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, c, 3, padding=1)
        self.mid = middle(c)
        levels = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            level = Named()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(ResnetBlock(c, ch * mult))
                c = ch * mult
                if resolution // 2**i in attn_resolutions:
                    level.attn.append(AttnBlock(c))
            if i:
                level.upsample = Named()
                level.upsample.conv = nn.Conv2d(c, c, 3, padding=1)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)  # index 0 is the finest
        self.norm_out = norm(c, 1e-6)
        self.conv_out = nn.Conv2d(c, out_ch, 3, padding=1)

    def forward(self, z):
        x = run_middle(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                x = block(x)
                if len(level.attn):
                    x = level.attn[j](x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class FirstStage(nn.Module):
    def __init__(self, ddconfig, embed_dim, n_embed=None):
        super().__init__()
        self.encoder, self.decoder = Encoder(**ddconfig), Decoder(**ddconfig)
        z, factor = ddconfig["z_channels"], 2 if ddconfig["double_z"] else 1
        self.quant_conv = nn.Conv2d(factor * z, factor * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z, 1)
        if n_embed:
            self.quantize = Named()
            self.quantize.embedding = nn.Embedding(n_embed, embed_dim)
        self.loss = Named()  # stands for the discriminator and the perceptual network
        self.loss.discriminator = nn.Conv2d(3, 4, 3)

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        if hasattr(self, "quantize"):
            table = self.quantize.embedding.weight
            flat = z.permute(0, 2, 3, 1)
            nearest = ((flat[..., None, :] - table) ** 2).sum(-1).argmin(-1)
            z = table[nearest].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))


# --- conditioners ----------------------------------------------------------------------------------------------------------------


class ClassEmbedder(nn.Module):
    def __init__(self, embed_dim, n_classes=1000, **_):
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, labels):
        return self.embedding(labels)[:, None]


class BertAttention(nn.Module):
    def __init__(self, width, heads=8, head_width=64):
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width)

    def forward(self, x):
        split = lambda t: t.reshape(*t.shape[:2], self.heads, -1).transpose(1, 2)
        q, k, v = split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x))
        weight = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return self.to_out((weight @ v).transpose(1, 2).flatten(2))


class BERTEmbedder(nn.Module):
    def __init__(self, n_embed, n_layer, vocab_size, max_seq_len, **_):
        super().__init__()
        t = self.transformer = Named()
        t.token_emb = nn.Embedding(vocab_size, n_embed)
        t.pos_emb = Named()
        t.pos_emb.emb = nn.Embedding(max_seq_len, n_embed)
        t.attn_layers = Named()
        t.attn_layers.layers = nn.ModuleList()
        for i in range(2 * n_layer):
            if i % 2 == 0:
                layer = BertAttention(n_embed)
            else:
                layer = Named()
                layer.net = nn.Sequential(nn.Sequential(nn.Linear(n_embed, 4 * n_embed), nn.GELU()), nn.Dropout(0),
                                          nn.Linear(4 * n_embed, n_embed))
            t.attn_layers.layers.append(nn.ModuleList([nn.LayerNorm(n_embed), layer, nn.Identity()]))
        t.norm = nn.LayerNorm(n_embed)
        t.to_logits = nn.Linear(n_embed, vocab_size)

    def forward(self, ids):
        t = self.transformer
        x = t.token_emb(ids) + t.pos_emb.emb(torch.arange(ids.shape[1]))[None]
        for i, (before, layer, _) in enumerate(t.attn_layers.layers):
            x = x + (layer(before(x)) if i % 2 == 0 else layer.net(before(x)))
        return t.norm(x)


class OpenClipBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = Named()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class FrozenOpenCLIPEmbedder(nn.Module):
    """With layer "penultimate": the last block is in the file and is not run."""

    def __init__(self, width=64, layers=2, vocabulary=40, length=7, **_):
        super().__init__()
        m = self.model = Named()
        m.positional_embedding = nn.Parameter(torch.zeros(length, width))
        m.text_projection = nn.Parameter(torch.zeros(width, width))
        m.logit_scale = nn.Parameter(torch.zeros(()))
        m.token_embedding = nn.Embedding(vocabulary, width)
        m.transformer = Named()
        m.transformer.resblocks = nn.ModuleList([OpenClipBlock(width) for _ in range(layers)])
        m.ln_final = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.model.token_embedding(ids) + self.model.positional_embedding
        mask = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
        for block in self.model.transformer.resblocks[:-1]:
            x = block(x, mask)
        return self.model.ln_final(x)
