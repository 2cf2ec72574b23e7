"""Names that options of extract may have. Plain text alone, so that help needs nothing more."""

RECIPES = ("paper", "published")
EVAL_VIEWS = ("center", "squash")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
RUNTIMES = ("auto", "torch", "compile", "openvino")
ENCODINGS = ("float16", "uint8")
BAD_IMAGE_POLICIES = ("skip", "stop")
