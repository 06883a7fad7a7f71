"""transformers' Trainer with a line more: what has the curvature done, and was the lr right?"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import hesscope as hs

torch.manual_seed(0)
sizes = {"vocab_size": 16, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
starts, strides = torch.arange(128) % 16, torch.arange(128) // 16 % 5 + 1
texts = (starts[:, None] + strides[:, None] * torch.arange(16)) % 16  # counting by 1 to 5
examples = [{"input_ids": text, "labels": text} for text in texts]

probe = [{"input_ids": texts[::8], "labels": texts[::8]}]  # stays the same at every look
watch = hs.monitor.HuggingFaceMonitor(
    lambda model: hs.Problem(model, data=probe), every=3, to="run/"
)
arguments = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=16,
    learning_rate=1.0,
    max_steps=48,
    logging_steps=16,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(model, arguments, train_dataset=examples, callbacks=[watch]).train()

history = hs.load("run/")
print("lr over what it bears:", history["sharpness_over_limit"])
print(*hs.verdicts(history), sep="\n")
