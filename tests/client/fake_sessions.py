"""KV sessions in float64: each row of each layer is a list of tokens; for tests of the client.

It has guards, repeats and operation ids, and shares no code with the service.
"""

import threading
import uuid

import numpy as np


class Problem(Exception):
    def __init__(self, status, code, **members):
        self.status = status
        self.body = {"status": status, "code": code, "detail": code, **members}


class Session:
    def __init__(self, params):
        self.id = f"r1.0.fake.{uuid.uuid4().hex}"
        self.groups = groups_of(params)
        self.layers = {layer: group for group in self.groups for layer in group["layers"]}
        self.rows = [[[] for _ in range(params.get("batch", 1))] for _ in self.layers]
        self.generation, self.frozen = 0, False
        self.name, self.labels = params.get("name"), params.get("labels", [])
        self.last, self.answers, self.lock = {}, {}, threading.Lock()

    def lengths(self, layer):
        return [len(row) for row in self.rows[layer]]

    def length(self):
        return [
            min(lengths) for lengths in zip(*map(self.lengths, range(len(self.rows))), strict=True)
        ]

    def document(self):
        return {
            "id": self.id,
            "length": self.length(),
            "lengths": [self.lengths(layer) for layer in range(len(self.rows))],
            "generation": self.generation,
            "batch": len(self.rows[0]),
            "frozen": self.frozen,
            "name": self.name,
            "labels": self.labels,
            "configuration": {"groups": self.groups},
        }

    def guard(self, params, have):
        expected = params["expected_length"]
        expected = [expected] * len(have) if isinstance(expected, int) else expected
        if expected != have or params["expected_generation"] != self.generation:
            conflict = {"length": have, "generation": self.generation}
            raise Problem(409, "session_conflict", **conflict)

    def run(self, op, tensors, params):
        if self.frozen and op != "attend":
            raise Problem(423, "frozen")
        if op in ("append", "step", "attend"):
            layers = params.get("layers")
            if layers is None:
                return self.layer_call(op, params.get("layer", 0), tensors, params)
            parts = [
                self.layer_call(op, layer, {n: t[i] for n, t in tensors.items()}, params)
                for i, layer in enumerate(layers)
            ]
            outs = [each["out"] for each, _ in parts if "out" in each]
            lengths = [answer["length"] for _, answer in parts]
            return ({"out": np.stack(outs)} if outs else {}), {**parts[0][1], "lengths": lengths}
        if params["op_id"] in self.answers:
            return {}, self.answers[params["op_id"]]
        self.guard(params, self.length())
        getattr(self, op)(params)
        self.generation, self.last = self.generation + 1, {}
        answer = {"length": self.length(), "generation": self.generation}
        self.answers[params["op_id"]] = answer
        return {}, answer

    def layer_call(self, op, layer, tensors, params):
        rows = params.get("rows") or range(len(self.rows[layer]))
        cut = {name: split(value, tensors.get("cu_seqlens"), len(rows))
               for name, value in tensors.items() if name in "qkv"}  # fmt: skip
        sizes = [len(each) for each in next(iter(cut.values()))]
        if op != "attend":
            digest = b"".join(value.tobytes() for name, value in sorted(tensors.items())
                              if name not in "q")  # fmt: skip
            have = [len(self.rows[layer][row]) for row in rows]
            before = [length - size for length, size in zip(have, sizes, strict=True)]
            try:
                self.guard(params, have)
            except Problem:
                self.guard(params, before)
                if self.last.get(layer) != digest:
                    raise
            else:
                places = split(tensors.get("positions"), tensors.get("cu_seqlens"), len(rows))
                for row, k, v, at in zip(rows, cut["k"], cut["v"], places, strict=True):
                    tokens = self.rows[layer][row]
                    for i in range(len(k)):
                        after = tokens[-1][0] + 1 if tokens else 0
                        position = after if at is None else int(at[i])
                        tokens.append((position, k[i].astype(float), v[i].astype(float)))
                self.last[layer] = digest
        length = self.length() if op == "attend" else self.lengths(layer)
        answer = {"length": length, "generation": self.generation}
        if op == "append":
            return {}, answer
        parts = [attend(self.layers[layer], self.rows[layer][row], q)
                 for row, q in zip(rows, cut["q"], strict=True)]  # fmt: skip
        shape, dtype = tensors["q"].shape, tensors["q"].dtype
        out = np.concatenate([part for part, _ in parts]).reshape(*shape[:-1], -1).astype(dtype)
        lse = np.concatenate([part for _, part in parts]).reshape(shape[:-1]).astype(np.float32)
        return ({"out": out, "lse": lse} if params.get("return_lse") else {"out": out}), answer

    def truncate(self, params):
        length = params.get("length")
        if length is None:
            length = [have - params["drop"] for have in self.length()]
        length = [length] * len(self.rows[0]) if isinstance(length, int) else length
        for layer in self.rows:
            for row, tokens in enumerate(layer):
                del tokens[length[row] :]

    def reorder(self, params):
        self.rows = [[[*layer[row]] for row in params["rows"]] for layer in self.rows]

    def evict(self, params):
        for layer in self.rows:
            for tokens in layer:
                del tokens[params["start"] : params["stop"]]

    def fork(self, params):
        other = Session({"groups": self.groups, "batch": len(self.rows[0])})
        other.rows = [[[*row] for row in layer] for layer in self.rows]
        return other


def groups_of(params):
    config = params.get("config")
    if config is None:
        groups = params.get("groups") or [params]
    else:
        layers, dim = config["num_hidden_layers"], config["hidden_size"]
        kinds = config.get("layer_types") or ["full_attention"] * layers
        heads = config["num_attention_heads"]
        same = {
            "heads": heads,
            "kv_heads": config.get("num_key_value_heads", heads),
            "head_dim": config.get("head_dim") or dim // heads,
            "rope": {"theta": config["rope_parameters"]["rope_theta"]},
        }
        window = config.get("sliding_window")
        groups = [
            {**same, "layers": [layer], "attention": {"window": window}}
            if window is not None and (kind == "sliding_attention" or not config.get("layer_types"))
            else {**same, "layers": [layer]}
            for layer, kind in enumerate(kinds)
        ]
    made, first = [], 0
    for group in groups:
        layers = group.get("layers", 1)
        layers = [*range(first, first + layers)] if isinstance(layers, int) else layers
        first += len(layers)
        names = ("heads", "kv_heads", "head_dim", "rope")
        attention = {"causal": True, "window": None, "chunk": None, "softcap": None, "scale": None}
        attention |= group.get("attention") or {}
        made.append({**{n: group.get(n) for n in names}, "layers": layers, "attention": attention})
    return made


def split(tensor, cu_seqlens, num_rows):
    """Return what each row has of a tensor."""
    if tensor is None:
        return [None] * num_rows
    if cu_seqlens is not None:
        return np.split(tensor, cu_seqlens[1:-1])
    return [*tensor] if tensor.ndim > 1 else [tensor] * num_rows


def rotated(x, positions, rope):
    if rope is None:
        return x
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None, None] * rope["theta"] ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attend(group, tokens, q):
    """Return out and lse of the queries of the last tokens."""
    n, total = len(q), len(tokens)
    if not n:
        return np.zeros((0, group["heads"] * group["head_dim"])), np.zeros((0, group["heads"]))
    positions = [position for position, _, _ in tokens]
    copies = group["heads"] // group["kv_heads"]
    k = rotated(np.stack([k for _, k, _ in tokens]), positions, group["rope"])
    k, v = k.repeat(copies, 1), np.stack([v for _, _, v in tokens]).repeat(copies, 1)
    q = rotated(q.astype(float), positions[total - n :], group["rope"])
    scores = np.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    i, j = np.arange(total - n, total)[:, None], np.arange(total)[None]
    window = group["attention"]["window"]
    scores[:, (j > i) | (j <= i - window if window else False)] = -np.inf
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    sums = weights.sum(-1, keepdims=True)
    out = np.einsum("hqk,khd->qhd", weights / sums, v)
    return out.reshape(n, -1), (top + np.log(sums))[..., 0].T
