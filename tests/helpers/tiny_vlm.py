"""Tiny random models that see, with processors and pairs: built here, nothing fetched."""

import numpy as np
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tests.helpers.tiny_apo import SPECIAL, WORDS, make_rows

IMAGE = "<image>"
VOCABULARY = [*SPECIAL, IMAGE, "<fake_token_around_image>", "<end_of_utterance>"]
TEXT = {
    "vocab_size": len(VOCABULARY + WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %} <image> {% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
IMAGE_ID = len(SPECIAL)
WRAPPED = TEMPLATE.replace(" <image> ", " <fake_token_around_image> <image> <end_of_utterance> ")


def make_tokenizer(**special):
    vocabulary = {word: number for number, word in enumerate(VOCABULARY + WORDS)}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens(VOCABULARY)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": IMAGE, **special},
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def llava(seed=0):
    """Images are rows of their own, one after the other."""
    torch.manual_seed(seed)
    vision = hf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config)


def llava_processor():
    return hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=make_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def qwen2_vl(seed=0):
    """Patches of all images lie end to end; a grid says how many each image has."""
    torch.manual_seed(seed)
    config = hf.Qwen2VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "mlp_ratio": 2,
        },
        image_token_id=IMAGE_ID,
        vision_start_token_id=IMAGE_ID + 1,
        vision_end_token_id=IMAGE_ID + 2,
    )
    return hf.Qwen2VLForConditionalGeneration(config)


def qwen2_vl_processor():
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 8 * 8, "longest_edge": 32 * 32},
    )
    return QwenProcessor(images, make_tokenizer(video_token="<unk>"), chat_template=WRAPPED)


class QwenProcessor(hf.Qwen2VLProcessor):
    """Without videos, whose processor needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]


def idefics2(seed=0):
    """Images stand by rows, filled up to the most of a row, with a mask of pixels."""
    torch.manual_seed(seed)
    config = hf.Idefics2Config(
        text_config=hf.MistralConfig(**TEXT, sliding_window=None),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
        },
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 2,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        image_token_id=IMAGE_ID,
        pad_token_id=0,
    )
    return hf.Idefics2ForConditionalGeneration(config)


def idefics2_processor():
    tokenizer = make_tokenizer(
        image_boundary_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
    )
    images = hf.Idefics2ImageProcessorPil(
        size={"shortest_edge": 8, "longest_edge": 16}, do_image_splitting=False
    )
    return hf.Idefics2Processor(images, tokenizer, image_seq_len=2, chat_template=TEMPLATE)


KINDS = {
    "llava": (llava, llava_processor),
    "qwen2_vl": (qwen2_vl, qwen2_vl_processor),
    "idefics2": (idefics2, idefics2_processor),
}


def picture(generator, wide=False):
    shape = (16, 32 if wide else 16, 3)
    return Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8))


def vision_rows(count, images=(1,), **options):
    """Pairs with pictures of one and two sizes; row i has images[i % len(images)] of them."""
    generator = np.random.default_rng(0)
    rows = []
    for number, row in enumerate(make_rows(count, **options)):
        pictures = [
            picture(generator, wide=(number + k) % 2 == 1)
            for k in range(images[number % len(images)])
        ]
        seen = [{"type": "image", "text": None} for _ in pictures]
        asked = [*seen, {"type": "text", "text": row["prompt"][0]["content"]}]
        answers = {
            side: [
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": row[side][0]["content"]}],
                }
            ]
            for side in ("chosen", "rejected")
        }
        rows.append({"images": pictures, "prompt": [{"role": "user", "content": asked}], **answers})
    return Dataset.from_list(rows)
