"""Training: finetuning on instruction rows, and making the micro models by pretraining and post-training."""
