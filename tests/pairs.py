"""The pairs that the field trains: teacher, student."""

STANDARD = [
    *(("wrn_40_2", "wrn_16_2"), ("wrn_40_2", "wrn_40_1"), ("resnet56", "resnet20"), ("resnet110", "resnet20")),
    *(("resnet110", "resnet32"), ("resnet32x4", "resnet8x4"), ("vgg13", "vgg8"), ("vgg13", "MobileNetV2")),
    *(("ResNet50", "MobileNetV2"), ("ResNet50", "vgg8"), ("resnet32x4", "ShuffleV1"), ("resnet32x4", "ShuffleV2")),
    ("wrn_40_2", "ShuffleV1"),
]
FEATURE_ONLY = [
    *(("fo_vgg19", "fo_vgg11"), ("fo_resnet34", "fo_resnet9"), ("fo_resnet34", "fo_mobilenetv2")),
    ("fo_vit_b", "fo_vit_ett"),
]
