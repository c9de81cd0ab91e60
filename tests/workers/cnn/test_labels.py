from config.models import MODELS, ModelSpec
from workers.cnn.labels import find_labels, imagenet_labels

#: Class numbers as Keras's imagenet_class_index.json has them.
KNOWN = {
    0: ("n01440764", "tench"),
    134: ("n02012849", "crane"),
    285: ("n02124075", "Egyptian_cat"),
    385: ("n02504013", "Indian_elephant"),
    517: ("n03126707", "crane"),
    607: ("n03590841", "jack-o'-lantern"),
    638: ("n03710637", "maillot"),
    639: ("n03710721", "maillot"),
    999: ("n15075141", "toilet_tissue"),
}


def test_classes_are_those_of_imagenet_in_order():
    labels = imagenet_labels()
    assert len(labels) == len({label.class_id for label in labels}) == 1_000
    assert [label.class_id for label in labels] == sorted(label.class_id for label in labels)
    assert {number: tuple(labels[number]) for number in KNOWN} == KNOWN


def test_names_have_no_spaces_and_only_two_stand_twice():
    names = [label.class_name for label in imagenet_labels()]
    assert not [name for name in names if " " in name or not name]
    assert sorted({name for name in names if names.count(name) > 1}) == ["crane", "maillot"]


def test_every_model_has_a_label_for_each_of_its_scores():
    for spec in (*MODELS.values(), ModelSpec(name="own", input_size=8, scaling="none", classes=3)):
        assert len(find_labels(spec)) == spec.classes
