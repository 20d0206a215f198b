#!/usr/bin/env python3
"""A small GPT on three ranks by torch and gloo, which saves what DeepSpeed saves: a file a rank, then `latest`.

    neox-trainer.py DIR SAVES PAUSE          # trains, STEPS steps between two saves
    neox-trainer.py DIR SAVES PAUSE resume   # loads what `latest` names, wherever it is, and takes one step

Each rank holds a third of the optimiser's state (ZeRO's first stage); a checkpoint is whole only with all three files.
"""
import os, sys, tempfile, time
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn

RANKS, STEPS, WIDTH, VOCABULARY, SEQUENCE = 3, 2, 256, 512, 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.embed, self.body, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.TransformerEncoder(layer, 3), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.body(self.embed(tokens), mask=mask, is_causal=True))


def step(model, optimizer, number, rank):
    """One step on text that every other may be predicted of; the loss over all ranks."""
    tokens = (torch.arange(SEQUENCE + 1) * 7 + torch.randint(VOCABULARY, (4, 1), generator=torch.Generator().manual_seed(number * RANKS + rank))) % VOCABULARY
    loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= RANKS
    optimizer.step()
    total = loss.detach()
    dist.all_reduce(total)
    return total.item() / RANKS


def mine(all_of, rank):
    """A rank's share of a list of tensors' names."""
    return [name for i, name in enumerate(sorted(all_of)) if i % RANKS == rank]


def save(folder, model, optimizer, rank):
    state, adam = model.state_dict(), optimizer.state_dict()
    share = {"module": {n: state[n] for n in mine(state, rank)}, "optimizer": {n: adam["state"][n] for n in mine(adam["state"], rank)}}
    with open(f"{folder}/mp_rank_{rank:02}_model_states.pt", "wb") as file:
        torch.save(share, file)
        file.flush()
        os.fsync(file.fileno())


def load(folder, model, optimizer):
    module, state = {}, {}
    for rank in range(RANKS):
        share = torch.load(f"{folder}/mp_rank_{rank:02}_model_states.pt")
        module.update(share["module"]), state.update(share["optimizer"])
    model.load_state_dict(module)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def run(rank, store, hot, saves, pause, resume):
    torch.set_num_threads(1), torch.manual_seed(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    if resume:
        load(resume, model, optimizer)
        loss = step(model, optimizer, 0, rank)
        if rank == 0:
            print(f"resumed from {resume}: loss {loss:.4f}", flush=True)
        return
    for number in range(1, saves + 1):
        for i in range(STEPS):
            loss = step(model, optimizer, number * STEPS + i, rank)
        folder = f"{hot}/global_step{500 * number}"
        failed = torch.zeros(1)
        try:
            os.makedirs(folder, exist_ok=True)
            save(folder, model, optimizer, rank)
        except (OSError, RuntimeError) as error:
            failed += 1
            print(f"save {number} of {saves} failed on rank {rank}: {error}", flush=True)
        dist.all_reduce(failed)
        if failed:
            sys.exit(1)
        if rank == 0:
            open(f"{hot}/latest", "w").write(f"global_step{500 * number}")
            if number in (1, saves):
                print(f"step {500 * number}: loss {loss:.4f}", flush=True)
        time.sleep(pause)
    if rank == 0:
        print(f"all {saves} saves", flush=True)


if __name__ == "__main__":
    hot, saves, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    resume = sys.argv[4] if len(sys.argv) > 4 else None
    try:
        mp.spawn(run, (f"{tempfile.mkdtemp()}/store", hot, saves, pause, resume), RANKS)
    except Exception:
        sys.exit(1)
