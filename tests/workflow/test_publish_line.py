"""Publishing through the workflow: Snakemake's storage plugin sends the manifest, after the tars."""

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("snakemake_storage_plugin_s3")
pytest.importorskip("moto")


def with_published(workplace, url: str) -> None:
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["shards"] = content.get("shards", {}) | {"publish": url}
    (workplace / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.slow
def test_a_study_publishes_its_shards_to_s3(small_study, command, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SNAKEMAKE_STORAGE_S3_ACCESS_KEY")
        for name in (*names, "SNAKEMAKE_STORAGE_S3_SECRET_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="shared")
        with_published(small_study, "s3://shared/small")
        done = command(small_study, "snakemake", "publish_demo")
        found = {item["Key"]: item for item in client.list_objects_v2(Bucket="shared")["Contents"]}
        folder = small_study / "results" / "demo" / "shards" / "demo"
        tars = sorted(path.name for path in folder.glob("*.tar"))
        assert sorted(k for k in found if k.endswith(".tar")) == [f"small/demo/{name}" for name in tars]
        last = found["small/demo/manifest.parquet"]
        assert last["LastModified"] == max(item["LastModified"] for item in found.values())
        assert not any("participants" in key for key in found)
        body = client.get_object(Bucket="shared", Key="small/demo/manifest.parquet")["Body"].read()
        assert body == (folder / "manifest.parquet").read_bytes()
        again = command(small_study, "snakemake", "publish_demo")
        assert "Nothing to be done" in again.stdout + again.stderr, done.stderr
    finally:
        server.stop()


def test_a_study_publishes_to_a_folder_in_one_job(workplace, command):
    with_published(workplace, "./published")
    done = command(workplace, "snakemake", "-n", "-p", "publish_demo-vbm")
    text = done.stdout + done.stderr
    assert "--url ./published/demo-vbm --manifest ./published/demo-vbm/manifest.parquet" in text
