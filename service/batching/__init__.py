"""How calls come to share the device.

- A call waits in the one queue of `batcher.Batcher`, which starts runs and returns their results.
- `call_queue.next_batch` decides which waiting calls share a run: those of one `batch_key`, up to
  the limits of a batch. `Engine.job` sets the key.
- `packing` turns the calls of a run that have one `pack_key` into a single call.
- `admission.Charge` charges each request for its memory, before the body is read.
"""
