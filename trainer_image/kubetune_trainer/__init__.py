"""What runs inside a training pod: `python -m kubetune_trainer` carries out one run spec.

    main       the process: signals, last word, exit code
    run        one run in order: data, model, baseline, training, evaluation, artifact
    sources    what is downloaded first: https, s3, hf
    objectives what is learned (clm, mlm, sft, dpo, reward, ppo, ...): run spec -> rows
    methods    what is trainable (full, lora, qlora, prompt tuning): base model -> trainable model -> files
    rollout    the model's own answers as rows; rewards: who judges them
    data       files -> records -> examples -> tokens -> rows
    loop       optimizer steps; checkpoint, baseline, artifact: what is kept, each complete or absent
    progress   live numbers to the operator; report: what a person reads afterwards

A new format is a function in `data/formats.py`, a new objective or method a module beside its neighbours and
one line in `run.py`.
"""
