"""A port -> moto's AWS on loopback, with what the fleet needs of AWS and moto 5.2 lacks or does differently.

Run as `python aws_server.py PORT [ADDRESS]`. It is a stand-in: what it takes is no proof of what AWS takes.
"""

import functools
import sys
from typing import Any

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import EmptyResult
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import AmiBackend
from moto.server import main


def instead_of(owner: type, name: str) -> Any:
    """Replace a method of moto's; the new one gets the old one as its first argument."""

    def replace(new: Any) -> Any:
        old = getattr(owner, name)

        @functools.wraps(old)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            return new(functools.partial(old, self), self, *args, **kwargs)

        setattr(owner, name, called)
        return new

    return replace


@instead_of(AmiBackend, "create_image")
def tag_the_snapshot_of_an_image_too(
    create: Any, backend: Any, instance_id: str, name: str, description: str, tag_specifications: list[Any]
) -> Any:
    """moto raises NotImplementedError for a snapshot's tags."""
    others = [given for given in tag_specifications if given["ResourceType"] != "snapshot"]
    image = create(instance_id, name, description, others)
    for given in tag_specifications:
        if given["ResourceType"] == "snapshot":
            tags = {tag["Key"]: tag["Value"] for tag in given["Tags"]}
            backend.create_tags([image.ebs_snapshot.id], tags)
    return image


@instead_of(EC2Backend, "create_launch_template")
def keep_a_templates_own_tags_out_of_its_data(
    create: Any, _: Any, name: str, description: str, data: dict[str, Any], tags: Any
) -> Any:
    """moto stores them among the tags of what the template starts, so the next look sees a difference."""
    given = [one for one in data.pop("TagSpecifications", []) if one["ResourceType"] != "launch-template"]
    if given:
        data["TagSpecifications"] = given
    return create(name, description, data, tags)


@instead_of(AutoScalingResponse, "update_auto_scaling_group")
def update_only_what_is_given(update: Any, response: Any) -> Any:
    """moto forgets a group's mixed types where they are not repeated, and its CapacityRebalance can only be created."""
    group = response.autoscaling_backend.autoscaling_groups[response._get_param("AutoScalingGroupName")]
    mixed = group.mixed_instances_policy
    updated = update()
    if not response._get_param("MixedInstancesPolicy"):
        group.mixed_instances_policy = mixed
    rebalance = response._get_bool_param("CapacityRebalance", None)
    if rebalance is not None:
        group.capacity_rebalance = rebalance
    return updated


@instead_of(AutoScalingBackend, "delete_auto_scaling_group")
def delete_what_belongs_to_a_group(delete: Any, backend: Any, name: str) -> Any:
    """AWS removes a group's hooks and policies together with it."""
    for held in (backend.lifecycle_hooks, backend.policies):
        for key in [key for key, one in held.items() if one.auto_scaling_group_name == name]:
            del held[key]
    return delete(name)


def complete_lifecycle_action(response: Any) -> Any:
    """moto has no such action. AWS lets the machine go, and takes the word only while the group waits for it."""
    backend, group_name = response.autoscaling_backend, response._get_param("AutoScalingGroupName")
    hooks = {(hook.auto_scaling_group_name, hook.name) for hook in backend.lifecycle_hooks.values()}
    if (group_name, response._get_param("LifecycleHookName")) not in hooks:
        raise ValidationError("No active Lifecycle Action found")
    backend.terminate_instance(response._get_param("InstanceId"), should_decrement=True)
    return EmptyResult()


AutoScalingResponse.complete_lifecycle_action = complete_lifecycle_action


@instead_of(FakeAutoScalingGroup, "replace_autoscaling_group_instances")
def remove_network_interfaces_with_their_instance(replace: Any, group: Any, *args: Any) -> Any:
    """moto forgets DeleteOnTermination of a launch template's interfaces."""
    replaced = replace(*args)
    for state in group.instance_states:
        for interface in state.instance.nics.values():
            interface.delete_on_termination = True
    return replaced


if __name__ == "__main__":
    main(["-H", (*sys.argv[2:], "127.0.0.1")[0], "-p", sys.argv[1]])
